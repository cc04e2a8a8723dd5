"""What kernels cost: forward and backward of this package beside torch's, in interleaved rounds.

On a CUDA device a turn is timed by events on its stream, each call on its own, after the
second-level cache was overwritten: what a kernel reads comes from memory, as it would in training.
"""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from makemore_ext.ops.batch_norm import batch_norm
from makemore_ext.ops.cross_entropy import cross_entropy

SHORTEST_TURN = 0.005  # seconds: a turn repeats what is over sooner
MOST_CUDA_REPEATS = 50  # each of which overwrites the cache
CACHE_BYTES = 256 << 20  # more than any device's second-level cache

Contenders = dict[str, Callable[[], Any]]


def interleaved(
    functions: Contenders, rounds: int, device: str = "cpu", calls: int | None = None
) -> dict[str, float]:
    """The median over the rounds of the seconds a call takes; in each round all take turns.

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


def _cross_entropy(input: Tensor) -> Contenders:
    target = torch.randint(input.shape[1], (input.shape[0], *input.shape[2:]), device=input.device)

    def step(function: Callable[..., Any]) -> Any:
        return torch.autograd.grad(function(input, target), input)

    return {"torch": lambda: step(F.cross_entropy), "makemore_ext": lambda: step(cross_entropy)}


def _batch_norm(input: Tensor) -> Contenders:
    ones = torch.ones(input.shape[1], dtype=torch.float32, device=input.device)
    weight, bias = (ones.clone().requires_grad_() for _ in range(2))
    running = torch.zeros_like(ones), ones
    grad_output = torch.randn_like(input, requires_grad=False)
    leaves = (input, weight, bias)

    def step(function: Callable[..., Any]) -> Any:
        output = function(input, *running, weight, bias, True)
        return torch.autograd.grad(output, leaves, grad_output)

    return {"torch": lambda: step(F.batch_norm), "makemore_ext": lambda: step(batch_norm)}


OPERATIONS: dict[str, Callable[[Tensor], Contenders]] = {
    "cross_entropy": _cross_entropy,
    "batch_norm": _batch_norm,
}


def bench(
    operation: str, shape: tuple[int, ...], dtype: torch.dtype, rounds: int, device: str = "cpu"
) -> dict[str, float]:
    """Seconds of a copy of the input, and of forward and backward by "torch" and "makemore_ext".

    Args:
        operation: one of OPERATIONS.
        shape: of the input, [N, C, d1, ...].
        dtype: of the input; parameters of batch norm are float32.
        rounds: of which the median is taken.
        device: "cpu" or "cuda".
    """
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    input = drawn.to(device, dtype)
    copied = torch.empty_like(input)
    contenders = {"copy": lambda: copied.copy_(input.detach())}
    return interleaved(contenders | OPERATIONS[operation](input.requires_grad_()), rounds, device)
