"""Cross entropy and batch norm beside torch's."""

from collections.abc import Callable
from typing import Any

import batch_norm
import cross_entropy
import measure

from sections.prose import span, table, where

LARGE_LOGITS, LARGE_INPUT = 16_000_000, 2_000_000  # bytes: of the tensors whose floor counts


def torch_leads(rows: list[dict[str, Any]], ratio: str) -> str:
    """Where the ratio is below 1."""
    behind = [row for row in rows if row[ratio] < 1]
    if not behind:
        return "Torch's own functions are nowhere faster."
    tensors = ", ".join(f"{next(iter(row.values()))} in {row['dtype']}" for row in behind)
    lead = span(1 / row[ratio] for row in behind)
    return (
        f"Torch's own functions are {lead} times as fast as ours for {tensors}, and nowhere else."
    )


def measured(
    results: list[dict[str, Any]], summary: Callable[[dict[str, Any]], dict[str, Any]], tensor: str
) -> list[dict[str, Any]]:
    """What the summary says of each result, and the "bytes" of its tensor."""
    rows = [{**summary(result), "bytes": result[f"{tensor}_bytes"]} for result in results]
    return [{**row, tensor: row[tensor].replace("x", "×")} for row in rows]


def of_cross_entropy() -> str:
    """Cross entropy beside torch's."""
    record = measure.load("cross_entropy")
    rows = measured(record["results"], cross_entropy.summary, "logits")
    columns = (
        *("logits", "dtype", "copy ms", "clone ms", "loss ms", "hollow ms", "eager ms"),
        *("compile ms", "fresh ms", "in place ms", "best peer / fresh", "best peer / clone"),
        *("eager / in place", "in place / copy"),
        *("memory eager", "memory fresh", "memory in place"),
    )
    shown = table([{name: row[name] for name in columns} for row in rows])
    floor = span(
        row["best peer / clone"]
        for row in rows
        if row["dtype"] == "float32"
        and row["logits"].count("×") == 1
        and row["bytes"] > LARGE_LOGITS
    )
    return f"""\
## Cross entropy

Forward and backward. By `python benchmarks/cross_entropy.py`, in
[cross_entropy.json](results/cross_entropy.json). {where(record)}.

"Fresh" allocates the gradient, "in place" takes the memory of the logits. The copy is one of warm
logits into warm memory, the clone one into fresh memory, as the gradient's is; "loss" forms no
gradient; "hollow" is an autograd Function without a kernel. The best peer is the faster of eager
torch and torch.compile. Memory is what the step adds at its peak, in sizes of the logits, where
those are large enough to tell.

{shown}

Where the floor lies: a clone moves the bytes of the logits and the gradient and does nothing else,
and is {floor} times as fast as the best peer for float32 logits [N, C] of
{LARGE_LOGITS // 10**6} MB and more. What is left between fresh and clone are the exponentials, one
for each logit, the more so in bfloat16, where fewer bytes move; in place they are formed twice,
once in either direction. In images the classes are far apart, a page each.

{torch_leads(rows, "best peer / fresh")}
"""


def of_batch_norm() -> str:
    """Batch norm beside torch's."""
    record = measure.load("batch_norm")
    rows = measured(record["results"], batch_norm.summary, "input")
    columns = (
        *("input", "memory", "dtype", "copy µs", "floor µs", "hollow µs", "eager µs"),
        *("compile µs", "ours µs", "best peer / ours", "best peer / floor", "ours / copy"),
        "tanh: best peer / ours",
    )
    shown = table([{name: row[name] for name in columns} for row in rows])
    floor = span(
        row["best peer / floor"]
        for row in rows
        if row["dtype"] == "float32" and row["bytes"] > LARGE_INPUT
    )
    return f"""\
## Batch norm

Forward and backward in training. By `python benchmarks/batch_norm.py`, in
[batch_norm.json](results/batch_norm.json). {where(record)}.

The floor makes the five passes over the tensor that forward and backward cannot do without, as a
clone and a sum, into memory as fresh as that of the results; copy, "hollow" and best peer are as
above. The last column is with a fused tanh, against torch's batch norm and tanh.

{shown}

The best peer takes {floor} times as long as the floor for float32 inputs of
{LARGE_INPUT // 10**6} MB and more: that is all there is to gain. What is left between ours and the
floor is a second read of the input in either direction where a channel does not fit the cache, and
in bfloat16 the conversions and the sums.

{torch_leads(rows, "best peer / ours")}
"""
