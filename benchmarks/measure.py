"""How the benchmarks measure: medians of interleaved rounds in one process, and peak memory.

On a CUDA device a turn is timed by events on its stream, each call on its own, after the
second-level cache was overwritten: what a kernel reads comes from memory, as it would in training.
"""

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
MOST_CUDA_REPEATS = 50  # each of which overwrites the cache
CACHE_BYTES = 256 << 20  # more than any device's second-level cache


def interleaved(
    functions: dict[str, Callable[[], Any]], rounds: int, device: str = "cpu"
) -> dict[str, float]:
    """The median over the rounds of the seconds a call takes; in each round all take turns.

    A machine that is slower for a while slows all of them: their ratios stand.
    """
    turn = _cuda_turn if device == "cuda" else _turn
    repeats = {}
    for name, function in functions.items():
        function()
        repeats[name] = max(1, round(SHORTEST_TURN / turn(function, 1)))
        if device == "cuda":
            repeats[name] = min(repeats[name], MOST_CUDA_REPEATS)
    turns: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            turns[name].append(turn(function, repeats[name]))
    return {name: statistics.median(seconds) for name, seconds in turns.items()}


def _turn(function: Callable[[], Any], repeats: int) -> float:
    start = time.perf_counter()
    for _ in range(repeats):
        function()
    return (time.perf_counter() - start) / repeats


def _cuda_turn(function: Callable[[], Any], repeats: int) -> float:
    cache = torch.empty(CACHE_BYTES, dtype=torch.uint8, device="cuda")
    events = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        cache.zero_()
        start.record()
        function()
        end.record()
        events.append((start, end))
    torch.cuda.synchronize()
    return statistics.median(start.elapsed_time(end) for start, end in events) / 1e3


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


def print_rows(title: str, rows: list[dict[str, Any]]) -> None:
    """A table with a column for each key of the rows."""
    table = Table(title=title)
    for column in rows[0]:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*(f"{v:.3g}" if isinstance(v, float) else str(v) for v in row.values()))
    Console(width=160).print(table)
