"""The examples, run as a reader would: losses agree, the extension builds and passes its tests."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = ROOT / "examples"
OWN_OPERATOR = EXAMPLES / "own_operator"


def printed(*command, cwd, **environment):
    """What Python prints, which must end well."""
    run = subprocess.run(
        [sys.executable, *map(str, command)],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
        timeout=200,
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run.stdout


def test_drop_in(tmp_path):
    script = EXAMPLES / "drop_in.py"
    assert script.read_text().count("# <---") == 3
    text = printed(script, cwd=tmp_path)
    for model in ("CNN", "GPT"):
        (difference,) = re.findall(rf"^{model} largest difference .* (\S+)$", text, re.M)
        assert float(difference) <= 1e-5
        ends = re.findall(rf"^{model} .* ms a step, loss (\S+) to (\S+)$", text, re.M)
        assert len(ends) == 2
        assert all(float(last) < float(first) for first, last in ends)


@pytest.mark.long
def test_compile_and_amp(tmp_path):
    losses = {}
    for line in printed(EXAMPLES / "compile_and_amp.py", cwd=tmp_path).splitlines():
        device, dtype, how, name, *values = line.split()
        losses[device, dtype, how, name] = list(map(float, values))
    for dtype, rounding in (("float32", 1e-5), ("bfloat16", 1e-3)):
        for how in ("eager", "compiled"):
            ours, torchs = (losses["cpu", dtype, how, name] for name in ("makemore_ext", "torch"))
            assert len(ours) == 5
            assert ours == pytest.approx(torchs, rel=rounding)


def test_ddp(tmp_path):
    torchrun = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    head, _, *rows = printed(*torchrun, EXAMPLES / "ddp.py", cwd=tmp_path).splitlines()
    assert head.startswith("2 ranks of 8 rows")
    table = [list(map(float, row.split())) for row in rows]
    steps, synchronised, alone, unsynchronised = zip(*table, strict=True)
    assert len(steps) == 8
    assert synchronised == pytest.approx(alone, abs=1e-5)
    assert unsynchronised != pytest.approx(alone, abs=1e-2)
    assert alone[-1] < alone[0]


@pytest.mark.long
def test_own_operator(tmp_path):
    """Builds, passes its own tests, and is measured."""
    source, installed = tmp_path / "source", tmp_path / "installed"
    shutil.copytree(OWN_OPERATOR, source, ignore=shutil.ignore_patterns("build", "*.egg-info"))
    alone = ["--no-build-isolation", "--no-deps", "--no-index"]
    printed("-m", "pip", "install", *alone, "--target", installed, ".", cwd=source)
    text = printed("-m", "pytest", "-q", cwd=source, PYTHONPATH=str(installed))
    assert re.search(r"^\d+ passed", text, re.M)
    head, *rows = printed("benchmark.py", cwd=source, PYTHONPATH=str(installed)).splitlines()
    assert head.split()[:4] == ["elements", "own", "torch", "compiled"]
    assert all(float(time) > 0 for row in rows for time in row.split()[1:])


def test_the_page_shows_what_stands_in_the_files_of_own_operator():
    page = (ROOT / "docs/own_operator.md").read_text(encoding="utf-8")
    sources = "\n".join(
        path.read_text(encoding="utf-8")
        for pattern in ("*.py", "csrc/*", "src/*/*.py")
        for path in OWN_OPERATOR.glob(pattern)
    )
    fences = re.findall(r"^```(\w*)\n(.*?)^```$", page, re.M | re.S)
    excerpts = [text for language, text in fences if language in ("", "cpp")]
    assert len(excerpts) > 5
    assert [excerpt for excerpt in excerpts if excerpt not in sources] == []
