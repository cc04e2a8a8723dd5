"""What the operations send, and a model of what that costs: `python tests/distributed/costs.py`.

An all_reduce of b bytes by W ranks takes, along a binary tree, 2 ceil(log2 W) messages one after
the other, and each rank sends and receives about 2 b: 2 ceil(log2 W) latency + 2 b / bandwidth. An
all_gather of b bytes from each brings every rank (W - 1) b, after at least ceil(log2 W) messages.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil, log2

LATENCY = 10e-6  # seconds from rank to rank
BANDWIDTH = 12.5e9  # bytes a second, 100 Gbit/s
RANKS = (8, 64, 1024)
DOUBLE = 8


@dataclass(frozen=True)
class Messages:
    """One direction of an operation: bytes of each all_reduce, and of a rank's all_gather."""

    reduced: tuple[int, ...] = ()
    gathered: tuple[int, ...] = ()

    def seconds(self, ranks: int) -> float:
        hops = ceil(log2(ranks))
        reduced = sum(2 * hops * LATENCY + 2 * size / BANDWIDTH for size in self.reduced)
        gathered = sum(hops * LATENCY + (ranks - 1) * size / BANDWIDTH for size in self.gathered)
        return reduced + gathered


def sync_batch_norm(channels: int) -> tuple[Messages, Messages]:
    """Forward and backward, of means within 32 standard deviations of 0."""
    first = DOUBLE * (5 + 2 * 2048)
    rest = DOUBLE * 2 * max(0, channels - 2048)
    forward = Messages((first, rest) if rest else (first,))
    return forward, Messages((DOUBLE * 2 * channels,))


def parallel_cross_entropy(
    rows: int, ranks: int, smoothing: bool = False
) -> tuple[Messages, Messages]:
    first = DOUBLE * (2 * 8 + ranks + 4096)
    rest = DOUBLE * max(0, rows - 4096)
    sums = DOUBLE * ((4 if smoothing else 3) * rows + 1)
    return Messages((first, rest, sums) if rest else (first, sums)), Messages()


def train(parameters: int, hidden: int, itemsize: int = 4) -> Messages:
    """A whole step of the backend `fused`."""
    forward, backward = sync_batch_norm(hidden)
    return Messages((*forward.reduced, *backward.reduced, itemsize * (parameters + 2)))


def gathered_logits(rows: int, classes: int, ranks: int) -> Messages:
    """In the place of parallel_cross_entropy: every rank gets all logits, in bfloat16."""
    return Messages(gathered=(2 * rows * classes // ranks,))


def lines() -> list[str]:
    """The table of docs/distributed.md."""
    rows = [
        ("batch norm of 256 channels, both ways", lambda _: sync_batch_norm(256)),
        (
            "cross entropy of 4,096 rows and 131,072 classes",
            lambda ranks: parallel_cross_entropy(4096, ranks),
        ),
        (
            "… of logits that are gathered, bfloat16",
            lambda ranks: (gathered_logits(4096, 131072, ranks),),
        ),
        ("a step of the names network, 12,297 parameters", lambda _: (train(12297, 200),)),
    ]
    heads = " | ".join(f"{ranks:,} ranks" for ranks in RANKS)
    table = [f"| | {heads} |", "|---|" + "---|" * len(RANKS)]
    for name, messages in rows:
        times = [sum(m.seconds(ranks) for m in messages(ranks)) for ranks in RANKS]
        table.append(f"| {name} | " + " | ".join(_shown(time) for time in times) + " |")
    return table


def _shown(seconds: float) -> str:
    return f"{seconds * 1e6:,.0f} µs" if seconds < 1e-3 else f"{seconds * 1e3:,.1f} ms"


if __name__ == "__main__":
    print("\n".join(lines()))
