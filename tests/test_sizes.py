"""How large files and folders may become: what is written here is to be read in one sitting."""

import subprocess
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_LINES = 350
MOST_LINES_OF_README = 130
MOST_FILES = 12  # of a folder, but for the root, whose files tools look for there
SUFFIXES = {".py", ".h", ".cpp", ".cu", ".cuh", ".md"}
DATA = (Path("benchmarks/results"), Path("makemore_ext/makemore/names.txt"))


@pytest.fixture(scope="module")
def files() -> list[Path]:
    """What git tracks, without data."""
    listed = subprocess.run(
        ["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if listed.returncode != 0:
        pytest.skip("not a git repository")
    paths = map(Path, listed.stdout.strip("\0").split("\0"))
    return [path for path in paths if not any(path.is_relative_to(data) for data in DATA)]


def lines(path: Path) -> int:
    return len((ROOT / path).read_text(encoding="utf-8").splitlines())


def test_no_file_is_long(files):
    counts = {str(path): lines(path) for path in files if path.suffix in SUFFIXES}
    assert {name: count for name, count in counts.items() if count > MOST_LINES} == {}


def test_no_folder_is_full(files):
    counts = Counter(str(path.parent) for path in files if path.parent != Path())
    assert {name: count for name, count in counts.items() if count > MOST_FILES} == {}


def test_the_readme_is_short():
    assert lines(Path("README.md")) <= MOST_LINES_OF_README
