"""How the benchmarks measure: medians of interleaved rounds in one process, and peak memory."""

import json
import statistics
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from makemore_ext.cli.environment import environment

RESULTS = Path(__file__).parent / "results"
SHORTEST_TURN = 0.005  # seconds: a turn repeats what is over sooner


def interleaved(functions: dict[str, Callable[[], Any]], rounds: int) -> dict[str, float]:
    """The median over the rounds of the seconds a call takes; in each round all take turns.

    A machine that is slower for a while slows all of them: their ratios stand.
    """
    repeats = {}
    for name, function in functions.items():
        function()
        seconds = _turn(function, 1)
        repeats[name] = max(1, round(SHORTEST_TURN / seconds))
    turns: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            turns[name].append(_turn(function, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def _turn(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def peak_memory(function: Callable[[], Any]) -> int | None:
    """Bytes by which the process grows while the function runs; None where Linux does not tell."""
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


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """torch.compile with one graph for each shape, as a training loop would have it."""
    torch._dynamo.reset()
    return torch.compile(function, dynamic=False)


def write(name: str, what: dict[str, Any]) -> None:
    """benchmarks/results/<name>.json, with where and when it was measured."""
    path = RESULTS / f"{name}.json"
    record = {**what, "date": date.today().isoformat(), "environment": environment()}
    path.write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A table with a column for each key of the rows."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=160).print(table)
