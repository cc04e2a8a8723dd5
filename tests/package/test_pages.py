"""The examples of the pages run as they stand, each in an interpreter of its own.

Those of docs/cuda-test-bench.md are one session, which tests/cuda/test_docs.py runs.
"""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from makemore_ext.makemore.data import EMBEDDED_NAMES

ROOT = Path(__file__).resolve().parents[2]
EXAMPLES = {
    f"{page}, line {text.count(chr(10), 0, match.start()) + 1}": match[1]
    for page in ("README.md", "CONTRIBUTING.md")
    for text in [(ROOT / page).read_text(encoding="utf-8")]
    for match in re.finditer(r"^```python\n(.*?)^```", text, re.M | re.S)
}
(WHOLE_STEP,) = [code for code in EXAMPLES.values() if "Dataset.load()" in code]


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
