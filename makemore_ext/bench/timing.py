"""Interleaved rounds, in which contenders take turns.

On a CUDA device a turn is timed by events on its stream, each call on its own, after the
second-level cache was overwritten: what a kernel reads comes from memory, as it would in training.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

SHORTEST_TURN = 0.005  # seconds: a turn repeats what is over sooner
MOST_CUDA_REPEATS = 50  # each of which overwrites the cache
CACHE_BYTES = 256 << 20  # more than any device's second-level cache

Contenders = dict[str, Callable[[], Any]]


def interleaved(
    functions: Contenders, rounds: int, device: str = "cpu", calls: int | None = None
) -> dict[str, float]:
    """The median over the rounds of the seconds a call takes; see `interleaved_rounds`."""
    seconds = interleaved_rounds(functions, rounds, device, calls)
    return {name: statistics.median(of_rounds) for name, of_rounds in seconds.items()}


def interleaved_rounds(
    functions: Contenders, rounds: int, device: str = "cpu", calls: int | None = None
) -> dict[str, list[float]]:
    """The seconds a call takes, a value a round; in each round all take turns.

    A machine that is slower for a while slows all of them: their ratios stand. A turn is of as many
    `calls` for each, or of as many as fill SHORTEST_TURN.
    """
    turn = _cuda_turn if device == "cuda" else _turn
    repeats = {}
    for name, function in functions.items():
        function()
        repeats[name] = calls or max(1, round(SHORTEST_TURN / turn(function, 1)))
        if device == "cuda":
            repeats[name] = min(repeats[name], MOST_CUDA_REPEATS)
    turns: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(rounds):
        for name, function in functions.items():
            turns[name].append(turn(function, repeats[name]))
    return turns


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
