"""Runs the notebook and saves what it prints, in place.

    python tools/execute_notebook.py

The file keeps its own metadata: neither the version of Python nor when a cell ran is in it.
"""

import tempfile
from pathlib import Path

import nbformat
from nbclient import NotebookClient

NOTEBOOK = Path(__file__).parents[1] / "examples" / "backprop_ninja.ipynb"


def main() -> None:
    """Runs it in an empty folder, as a reader might."""
    notebook = nbformat.read(NOTEBOOK, as_version=4)
    metadata = dict(notebook.metadata)
    with tempfile.TemporaryDirectory() as folder:
        NotebookClient(
            notebook,
            kernel_name="python3",
            timeout=300,
            record_timing=False,
            coalesce_streams=True,
            resources={"metadata": {"path": folder}},
        ).execute()
    notebook.metadata.clear()
    notebook.metadata.update(metadata)
    nbformat.write(notebook, NOTEBOOK)


if __name__ == "__main__":
    main()
