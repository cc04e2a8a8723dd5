"""Forward and backward beside torch's operations, eager and compiled: microseconds, medians.

    python benchmark.py

All take turns in every round, so that a machine that is slower for a while slows all of them.
"""

import statistics
import time

import torch
from own_operator import squared_relu
from torch import Tensor
from torch.nn import functional as F

ROUNDS = 31


def composition(x: Tensor) -> Tensor:
    """The same by two operations of torch."""
    return F.relu(x).square()


functions = {"own": squared_relu, "torch": composition, "compiled": torch.compile(composition)}
print(f"{'elements':>10}", *(f"{name:>9}" for name in functions), "  µs a call")
for size in (1_000, 100_000, 10_000_000):
    x, dy = torch.randn(size, requires_grad=True), torch.randn(size)
    seconds: dict[str, list[float]] = {name: [] for name in functions}
    for _ in range(ROUNDS):
        for name, function in functions.items():
            start = time.perf_counter()
            torch.autograd.grad(function(x), x, dy)
            seconds[name].append(time.perf_counter() - start)
    print(f"{size:>10}", *(f"{statistics.median(s) * 1e6:>9.1f}" for s in seconds.values()))
