"""What the benchmarks share beside makemore_ext.bench: peak memory, contenders, result files."""

import json
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor

from makemore_ext._environment import environment

RESULTS = Path(__file__).parents[1] / "results"


def peak_memory(function: Callable[[], Any], device: str = "cpu") -> int | None:
    """Bytes by which memory in use grows while the function runs; None where nothing tells."""
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        function()
        return torch.cuda.max_memory_allocated() - before
    status, reset = Path("/proc/self/status"), Path("/proc/self/clear_refs")

    def kibibytes(field: str) -> int:
        lines = status.read_text(encoding="ascii").splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith(field + ":"))

    try:
        reset.write_text("5", encoding="ascii")
        before = kibibytes("VmRSS")
        function()
        return (kibibytes("VmHWM") - before) * 1024
    except OSError:
        return None


def hollow(output: Tensor, *gradients: Tensor) -> Callable[..., Tensor]:
    """An autograd Function without a kernel: what Python and autograd take of any."""

    class Hollow(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, *inputs: Tensor) -> Tensor:
            return output.view_as(output)

        @staticmethod
        def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, ...]:
            return gradients

    return Hollow.apply


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile with one graph for each shape, as a training loop would have it."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def write(name: str, what: dict[str, Any], device: str = "cpu") -> None:
    """benchmarks/results/<name>.json, or <name>_cuda.json, with where and when it was measured."""
    path = RESULTS / (f"{name}_cuda.json" if device == "cuda" else f"{name}.json")
    if device == "cuda":
        what = {"device": torch.cuda.get_device_name(), **what}
    record = {**what, "date": date.today().isoformat(), "environment": environment()}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def load(name: str) -> dict[str, Any]:
    """A result file."""
    return json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A table with a column for each key of the rows."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=200).print(table)
