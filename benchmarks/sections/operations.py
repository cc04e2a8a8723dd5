"""Cross entropy and batch norm beside torch's."""

from collections.abc import Callable
from typing import Any

import batch_norm
import cross_entropy
import measure
from measure import jemalloc

from sections.prose import span, table, where

LARGE_LOGITS, LARGE_INPUT = 16_000_000, 2_000_000  # bytes: of the tensors whose floor counts


def torch_leads(rows: list[dict[str, Any]], ratio: str, *, under: str = "") -> str:
    """Where the ratio is below 1, under another malloc if one is named."""
    torch_is = f"Under {under} torch's own functions are" if under else "Torch's own functions are"
    behind = [row for row in rows if row[ratio] < 1]
    if not behind:
        return f"{torch_is} nowhere faster."
    tensors = ", ".join(f"{next(iter(row.values()))} in {row['dtype']}" for row in behind)
    lead = span(1 / row[ratio] for row in behind)
    return f"{torch_is} {lead} times as fast as ours for {tensors}, and nowhere else."


def measured(
    results: list[dict[str, Any]], summary: Callable[[dict[str, Any]], dict[str, Any]], tensor: str
) -> list[dict[str, Any]]:
    """What the summary says of each result, and the "bytes" of its tensor."""
    rows = [{**summary(result), "bytes": result[f"{tensor}_bytes"]} for result in results]
    return [{**row, tensor: row[tensor].replace("x", "×")} for row in rows]


def under_jemalloc(
    record: dict[str, Any],
    summary: Callable[[dict[str, Any]], dict[str, Any]],
    tensor: str,
    columns: tuple[str, ...],
    ratio: str,
) -> str:
    """Large float32 tensors where torch keeps its memory too; nothing without that run."""
    again = record["under_jemalloc"]
    if again is None:
        return ""
    rows = measured(again["results"], summary, tensor)
    keys = [name for name in (tensor, "memory", "dtype") if name in rows[0]]

    def key(row: dict[str, Any]) -> tuple[str, ...]:
        return tuple(row[name] for name in keys)

    with_glibc = {key(row): row[ratio] for row in measured(record["results"], summary, tensor)}
    shown = table(
        [
            {name: row[name] for name in (*keys, *columns)}
            | {f"{ratio}, with glibc": with_glibc[key(row)]}
            for row in rows
            if row["dtype"] == "float32"
        ]
    )
    return f"""
Under jemalloc {again["jemalloc"]}, in float32:

{shown}

"{ratio}" is {span(with_glibc[key(row)] for row in rows)} with glibc's malloc for these tensors and
those in bfloat16, {span(row[ratio] for row in rows)} with jemalloc.
{torch_leads(rows, ratio, under="jemalloc")}
"""


def of_cross_entropy() -> str:
    """Cross entropy beside torch's."""
    record = measure.load("cross_entropy")
    rows = measured(record["results"], cross_entropy.summary, "logits")
    columns = (
        *("logits", "dtype", "copy ms", "clone ms", "loss ms", "hollow ms", "eager ms"),
        *("compile ms", "fresh ms", "in place ms", "best peer / fresh", "best peer / copy"),
        *("fresh / copy", "eager / in place", "in place / copy"),
        *("memory eager", "memory fresh", "memory in place"),
    )
    shown = table([{name: row[name] for name in columns} for row in rows])
    kept = under_jemalloc(
        record,
        cross_entropy.summary,
        "logits",
        (
            *("copy ms", "clone ms", "eager ms", "compile ms", "fresh ms", "in place ms"),
            *("best peer / fresh", "eager / in place", "best peer / copy", "fresh / copy"),
        ),
        "best peer / fresh",
    )
    floor = span(
        row["best peer / copy"]
        for row in rows
        if row["dtype"] == "float32"
        and row["logits"].count("×") == 1
        and row["bytes"] > LARGE_LOGITS
    )
    return f"""\
## Cross entropy

![Time of cross entropy against the size of the logits](results/cross_entropy.svg)

Forward and backward. By `python benchmarks/cross_entropy.py`, in
[cross_entropy.json](results/cross_entropy.json). {where(record)}.

"Fresh" allocates the gradient, "in place" takes the memory of the logits. The copy is one of warm
logits into warm memory, the clone one into memory that torch allocates; "loss" forms no gradient;
"hollow" is an autograd Function without a kernel. The best peer is the faster of eager torch and
torch.compile. Memory is what the step adds at its peak, in sizes of the logits, where those are
large enough to tell.

{shown}

Where the floor lies: the copy moves the bytes of the logits and the gradient and does nothing
else, and is {floor} times as fast as the best peer for float32 logits [N, C] of
{LARGE_LOGITS // 10**6} MB and more. What is left between fresh and copy are the exponentials, one
for each logit, the more so in bfloat16, where fewer bytes move; in place they are formed twice,
once in either direction. In images the classes are far apart, a page each.

{torch_leads(rows, "best peer / fresh")}

How much of that is memory: torch allocates by malloc, and glibc's gives large blocks back, so that
pages are mapped and cleared anew on every step; results of this package from 1 MiB on take a
[cache](../docs/usage.md#memory). Large tensors are measured once more, torch and ours, in a process
whose malloc is jemalloc with `MALLOC_CONF={jemalloc.MALLOC_CONF}`, which keeps every page, of torch
as well. Where it is missing, the table is left out.
{kept}"""


def of_batch_norm() -> str:
    """Batch norm beside torch's."""
    record = measure.load("batch_norm")
    rows = measured(record["results"], batch_norm.summary, "input")
    columns = (
        *("input", "memory", "dtype", "copy µs", "floor µs", "hollow µs", "eager µs"),
        *("compile µs", "ours µs", "best peer / ours", "best peer / floor", "ours / floor"),
        "tanh: best peer / ours",
    )
    shown = table([{name: row[name] for name in columns} for row in rows])
    kept = under_jemalloc(
        record,
        batch_norm.summary,
        "input",
        (
            *("copy µs", "floor µs", "eager µs", "compile µs", "ours µs", "best peer / ours"),
            *("best peer / floor", "ours / floor", "tanh: best peer / ours"),
        ),
        "best peer / ours",
    )
    floor = span(
        row["best peer / floor"]
        for row in rows
        if row["dtype"] == "float32" and row["bytes"] > LARGE_INPUT
    )
    return f"""\
## Batch norm

![Time of batch norm against the size of the input](results/batch_norm.svg)

Forward and backward in training. By `python benchmarks/batch_norm.py`, in
[batch_norm.json](results/batch_norm.json). {where(record)}.

The floor makes the five passes over the tensor that forward and backward cannot do without, as a
copy and a sum, into memory that is used again; copy, "hollow", best peer and jemalloc are as
above. The last column is with a fused tanh, against torch's batch norm and tanh.

{shown}

The best peer takes {floor} times as long as the floor for float32 inputs of
{LARGE_INPUT // 10**6} MB and more: that is all there is to gain. What is left between ours and the
floor is a second read of the input in either direction where a channel does not fit the cache, and
in bfloat16 the conversions and the sums.

{torch_leads(rows, "best peer / ours")}
{kept}"""
