"""The notebook runs as it is committed, and prints what is committed with it.

Pictures are not compared. Nor are, of a cell with the tag "times", numbers, and of one with the tag
"rounding" what roundings leave, which differs from processor to processor.
"""

import os
import re
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).resolve().parents[2] / "examples" / "backprop_ninja.ipynb"
MOST_BYTES = 1_200_000
SECONDS = 120  # for a cell

NUMBER = r"\d[\d.,]*"
SMALL_NUMBER = r"\d\.\de[+-]\d\d"
ROW = r"(?m)^(\S+) +(?:yes|no) +(yes|no) .*"  # of a table of gradients: name, exact, approximate


@pytest.fixture(scope="module")
def committed() -> nbformat.NotebookNode:
    return nbformat.read(NOTEBOOK, as_version=4)


@pytest.fixture(scope="module")
def executed(committed, tmp_path_factory) -> nbformat.NotebookNode:
    """By a fresh kernel, in an empty folder."""
    notebook = nbformat.from_dict(committed)
    environment = {**os.environ, "IPYTHONDIR": str(tmp_path_factory.mktemp("ipython"))}
    folder = {"metadata": {"path": str(tmp_path_factory.mktemp("notebook"))}}
    client = NotebookClient(notebook, kernel_name="python3", timeout=SECONDS, resources=folder)
    client.execute(env=environment)
    return notebook


def code_cells(notebook: nbformat.NotebookNode) -> list[nbformat.NotebookNode]:
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def printed(cell: nbformat.NotebookNode) -> str:
    """The text of a cell's outputs, without that which stands for a picture."""
    parts = []
    for output in cell.outputs:
        if output.output_type == "stream" and output.name == "stdout":
            parts.append(output.text)
        elif output.output_type == "execute_result":
            parts.append(output.data["text/plain"])
    return "".join(parts)


def stable(cell: nbformat.NotebookNode) -> str:
    text = printed(cell)
    tags = cell.metadata.get("tags", [])
    if "times" in tags:
        text = re.sub(NUMBER, "#", text)
    if "rounding" in tags:
        text = re.sub(SMALL_NUMBER, "#", re.sub(ROW, r"\1 \2", text))
    return re.sub(" +", " ", text) if tags else text


def test_every_cell_was_run_once_and_in_order(committed):
    counts = [cell.execution_count for cell in code_cells(committed)]
    assert counts == list(range(1, len(counts) + 1))


def test_no_output_is_an_error_or_a_warning(committed):
    outputs = [output for cell in code_cells(committed) for output in cell.outputs]
    assert {output.output_type for output in outputs} <= {
        "stream",
        "display_data",
        "execute_result",
    }
    assert {output.name for output in outputs if output.output_type == "stream"} == {"stdout"}


def test_nothing_of_the_machine_is_in_it(committed):
    assert committed.metadata.kernelspec.name == "python3"
    assert "widgets" not in committed.metadata
    texts = [printed(cell) for cell in code_cells(committed)]
    assert [text for text in texts if re.search(r"/\w+/", text)] == []
    assert {key for cell in committed.cells for key in cell.metadata} <= {"tags"}


def test_it_is_small():
    assert NOTEBOOK.stat().st_size <= MOST_BYTES


def test_links_lead_somewhere(committed):
    text = "\n".join(cell.source for cell in committed.cells if cell.cell_type == "markdown")
    files = re.findall(r"\]\((?!https:)([^)#\s]+)[^)]*\)", text)
    assert files
    assert [file for file in files if not (NOTEBOOK.parent / file).exists()] == []


@pytest.mark.long
def test_another_run_prints_the_same(committed, executed):
    expected = [stable(cell) for cell in code_cells(committed)]
    assert [stable(cell) for cell in code_cells(executed)] == expected
    assert any(expected)
