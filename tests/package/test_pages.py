"""What the pages say: examples run, links lead somewhere, figures are those of the result files.

Each example runs in an interpreter of its own; those of cuda_bench/README.md are one session, which
cuda_bench/tests/test_docs.py runs.
"""

import importlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

from makemore_ext.makemore.data import EMBEDDED_NAMES

ROOT = Path(__file__).resolve().parents[2]
WITH_EXAMPLES = (
    "README.md",
    "CONTRIBUTING.md",
    *sorted(str(page.relative_to(ROOT)) for page in ROOT.glob("docs/**/*.md")),
)
PAGES = (
    *WITH_EXAMPLES,
    "benchmarks/README.md",
    "csrc/README.md",
    "cuda_bench/README.md",
    "examples/own_operator/README.md",
)
EXAMPLES = {
    f"{page}, line {text.count(chr(10), 0, match.start()) + 1}": match[1]
    for page in WITH_EXAMPLES
    for text in [(ROOT / page).read_text(encoding="utf-8")]
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
}
(WHOLE_STEP,) = [code for code in EXAMPLES.values() if 'or load("names.txt")' in code]


def run(code: str, folder: Path) -> str:
    return subprocess.run(
        [sys.executable, "-c", code], cwd=folder, stdout=subprocess.PIPE, text=True, check=True
    ).stdout


@pytest.mark.parametrize("code", EXAMPLES.values(), ids=EXAMPLES)
def test_example(code, tmp_path):
    run(code, tmp_path)


@pytest.mark.parametrize("letters", ["aeionrl", "abcdefghijklmnopqrstuvwxyzäöüßéñ"])
def test_the_whole_step_on_names_of_another_alphabet(letters, tmp_path):
    names = EMBEDDED_NAMES.read_text().split()[:500]
    last = letters[-1]
    renamed = ["".join(letter if letter in letters else last for letter in name) for name in names]
    (tmp_path / "names.txt").write_text("\n".join([*renamed, letters]), encoding="utf-8")
    assert 'or load("names.txt")' in WHOLE_STEP
    printed = run(WHOLE_STEP.replace("load()", 'load("names.txt")'), tmp_path)
    assert len(printed.splitlines()) == 2


@pytest.mark.parametrize("name", PAGES)
def test_links_lead_somewhere(name):
    page = ROOT / name
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", text)
    files = [link for link in links if not link.startswith("https:")]
    assert [link for link in files if not (page.parent / link).exists()] == []


@pytest.mark.parametrize("name", [name for name in WITH_EXAMPLES if "derivations" in name])
def test_lines_of_the_sources_stand_there(name):
    """A fence without a language quotes the reference, one of C++ the kernels."""
    quoted = {"": "makemore_ext/reference/*.py", "cpp": "csrc/**/*"}
    sources = {
        language: {
            line.strip()
            for file in ROOT.glob(pattern)
            if file.is_file()
            for line in file.read_text(encoding="utf-8").splitlines()
        }
        for language, pattern in quoted.items()
    }
    text = (ROOT / name).read_text(encoding="utf-8")
    for language, code in re.findall(r"^```(\S*)\n(.*?)^```$", text, re.M | re.S):
        lines = {line.strip() for line in code.splitlines()} - {""}
        assert lines - sources.get(language, lines) == set()


@pytest.fixture
def page(monkeypatch):
    """What writes the figures."""
    monkeypatch.syspath_prepend(ROOT / "benchmarks")
    return importlib.import_module("page")


def test_figures_are_those_of_the_result_files(page):
    for path, text in page.pages().items():
        assert path.read_text(encoding="utf-8") == text


SPEED = re.compile(r"\d ?(ns|µs|ms|GB/s|GFLOP)\b|times as (fast|long)\b|\d× (as|faster)")


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_no_speed_stands_elsewhere_on_a_page(name, page):
    """What is not written from the result files is not known to be so."""
    text = (ROOT / name).read_text(encoding="utf-8")
    before, _, rest = text.partition(page.BEFORE)
    _, _, after = rest.partition(page.AFTER)
    outside = before + after
    if name == "docs/distributed.md":  # its other table is a model's, which tests/distributed holds
        outside = re.sub(r"^2 b / bandwidth.*?\n\n.*?\n\n", "", outside, flags=re.M | re.S)
    assert SPEED.findall(outside) == []


def test_every_result_file_is_on_a_page(page, monkeypatch):
    asked = []
    load = page.measure.load
    monkeypatch.setattr(page.measure, "load", lambda name: asked.append(name) or load(name))
    page.pages()
    results = (ROOT / "benchmarks" / "results").glob("*.json")
    assert sorted(set(asked)) == sorted(path.stem for path in results)


def test_every_picture_is_of_its_result_file(page):
    for picture, (name, _) in page.pictures.PICTURES.items():
        drawn = (ROOT / "benchmarks" / "results" / f"{picture}.svg").read_text(encoding="utf-8")
        assert page.pictures.digest(name) in drawn


def test_every_picture_is_on_a_page(page):
    text = "".join((ROOT / name).read_text(encoding="utf-8") for name in PAGES)
    drawn = (ROOT / "benchmarks" / "results").glob("*.svg")
    assert {path.stem for path in drawn} == page.pictures.PICTURES.keys()
    assert [name for name in page.pictures.PICTURES if f"results/{name}.svg" not in text] == []


@pytest.mark.long
def test_the_site_builds_without_a_warning(tmp_path):
    """Links within it too. Those to other hosts are not tried."""
    command = ["-m", "sphinx", "--quiet", "--fail-on-warning", "--keep-going", "-c", "docs", "."]
    built = subprocess.run(
        [sys.executable, *command, tmp_path / "site", "-d", tmp_path / "trees"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    home = tmp_path / "site" / "docs" / "index.html"
    assert "The derivations" in home.read_text(encoding="utf-8")
