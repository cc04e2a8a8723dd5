"""The pictures of the pages: results/<name>.svg, each of one result file.

What a picture and the table beside it show is in one file, whose digest the picture has.
"""

import hashlib
import math
from collections.abc import Callable
from statistics import median
from typing import TYPE_CHECKING, Any

import measure
from training_step import FRAMEWORKS, sizes

from makemore_ext import plots
from makemore_ext.plots import Error, Panel, Series
from sections.training import NOTEBOOK, step_seconds

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def digest(name: str) -> str:
    """Of a result file."""
    content = (measure.RESULTS / f"{name}.json").read_bytes()
    return f"sha256 of {name}.json: {hashlib.sha256(content).hexdigest()}"


def _step(case: str, result: dict[str, Any], remark: str = "") -> Panel:
    step = step_seconds(result)
    batch, hidden = sizes(case)
    seconds = {FRAMEWORKS[name]: step[name] for name in FRAMEWORKS if name in step}
    title = f"batch {batch}, {hidden} hidden units{remark}"
    return Panel(title, seconds, FRAMEWORKS["fused_mlp"], step["floor"], "arithmetic")


def training_step() -> "Figure":
    """A training step in each framework, for each size."""
    cases = measure.load("training_step")["cases"]
    return plots.speeds([_step(case, result) for case, result in cases.items()], columns=3)


def notebook_step() -> "Figure":
    """The step of the notebook's size alone."""
    case = measure.load("training_step")["cases"][NOTEBOOK]
    return plots.speeds([_step(NOTEBOOK, case, "; and times that of FusedMLP")])


def compare() -> "Figure":
    """The training backends in one process."""
    record = measure.load("compare")
    seconds = {run["backend"]: run["step_seconds"] for run in record["backends"]}
    title = f"batch {record['batch_size']}, {record['hidden']} hidden units"
    title += "; and times that of fused_mlp"
    return plots.speeds([Panel(title, seconds, "fused_mlp")])


def _contenders(seconds: dict[str, dict[float, float]]) -> dict[str, Series]:
    """Of a panel, from seconds by size."""
    return {
        title: Series(of_sizes, ours=title == "makemore_ext", is_limit=title == "a copy")
        for title, of_sizes in seconds.items()
    }


def _against_size(name: str, bytes_name: str, contenders: dict[str, str]) -> "Figure":
    """Time against bytes of matrices [N, C]; `contenders` are keys of seconds, by what they are."""
    results = [row for row in measure.load(name)["results"] if len(row["shape"]) == 2]
    panels = {
        dtype: _contenders(
            {
                title: {
                    row[bytes_name]: row["seconds"][key] for row in results if row["dtype"] == dtype
                }
                for title, key in contenders.items()
            }
        )
        for dtype in ("float32", "bfloat16")
    }
    return plots.against_size(panels, f"bytes of the {bytes_name.removesuffix('_bytes')}")


def cross_entropy() -> "Figure":
    """Cross entropy of matrices, by size."""
    keys = {"eager torch": "eager", "torch.compile": "compile", "makemore_ext": "fresh"}
    return _against_size("cross_entropy", "logits_bytes", {**keys, "a copy": "copy"})


def batch_norm() -> "Figure":
    """Batch norm of matrices, by size."""
    keys = {"eager torch": "eager", "torch.compile": "compile", "makemore_ext": "ours"}
    return _against_size("batch_norm", "input_bytes", {**keys, "a copy": "copy"})


def bench() -> "Figure":
    """Every operation, by the number of elements of its input or table."""
    names = {"torch": "torch", "makemore_ext": "makemore_ext", "a copy": "copy"}
    times: dict[str, dict[str, dict[float, float]]] = {}
    for answer in measure.load("bench")["questions"]:
        operation, shape, *dtype = answer["question"].split(", ")
        if dtype == ["float32"]:
            elements = math.prod(map(int, shape.split("x")))
            for title, name in names.items():
                of_title = times.setdefault(operation, {}).setdefault(title, {})
                of_title[elements] = median(answer["seconds"][name])
    panels = {
        operation: _contenders(of_operation)
        for operation, of_operation in times.items()
        if len(of_operation["torch"]) > 2
    }
    return plots.against_size(panels, "elements")


def accuracy() -> "Figure":
    """Errors, ours and torch's."""
    record = measure.load("accuracy")
    panels: dict[str, list[Error]] = {}
    for row in record["results"]:
        of_row = Error(f"{row['case']}: {row['result']}", row["ours worst"], row["torch worst"])
        panels.setdefault(row["dtype"], []).append(of_row)
    return plots.errors(panels, f"worst of {record['draws']} draws, in eps of the largest element")


# By the picture's name: the result file, and what draws it.
PICTURES: dict[str, tuple[str, Callable[[], "Figure"]]] = {
    "accuracy": ("accuracy", accuracy),
    "batch_norm": ("batch_norm", batch_norm),
    "bench": ("bench", bench),
    "compare": ("compare", compare),
    "cross_entropy": ("cross_entropy", cross_entropy),
    "notebook_step": ("training_step", notebook_step),
    "training_step": ("training_step", training_step),
}


def draw() -> None:
    """Writes all pictures."""
    for picture, (name, figure) in PICTURES.items():
        with plots.style():
            plots.save(figure(), str(measure.RESULTS / f"{picture}.svg"), digest(name))
