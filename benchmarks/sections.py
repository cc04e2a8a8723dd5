"""The sections of benchmarks/README.md: what each result file says, in tables and sentences."""

import json
from collections.abc import Callable
from statistics import median
from typing import Any

import batch_norm
import cross_entropy
import kernels
import measure
import small_sizes
import training_step
from prose import number, span, table, times, where

NOTEBOOK = "32x200"  # the case of training_step.py that is the notebook's
LARGE_LOGITS, LARGE_INPUT = 16_000_000, 2_000_000  # bytes: of the tensors whose floor counts
BACKENDS = {
    "manual": "the notebook's exercise 4 as it stands",
    "vectorized": "the closed forms of exercises 2 and 3",
    "autograd": "eager torch",
    "fused": "the kernels of this package, through autograd",
    "fused_mlp": "the whole step in one native call",
    "torch_compile": "torch.compile, a step a call",
    "jax_jit": "JAX, a step a call",
    "jax_scan": "JAX, steps in `lax.scan`",
}


def load(name: str) -> dict[str, Any]:
    """A result file."""
    return json.loads((measure.RESULTS / f"{name}.json").read_text(encoding="utf-8"))


def step_seconds(case: dict[str, Any]) -> dict[str, float]:
    """Of a case of training_step.json: each framework's step, and its arithmetic alone."""
    steps = {name: median(rounds) for name, rounds in case["round_seconds"].items()}
    return {**steps, "floor": case["operations"] / case["fma_rate"]}


def of_training_step() -> str:
    """The whole step in each framework."""
    cases = load("training_step")["cases"]
    seconds = {case: step_seconds(result) for case, result in cases.items()}
    titles = {
        case: "n = {}, H = {}".format(*training_step.sizes(case)) for case in training_step.CASES
    }
    rows = [
        {
            "µs a step": title,
            **{
                titles[case]: step[name] * 1e6 if name in step else None
                for case, step in seconds.items()
            },
        }
        for name, title in {**training_step.FRAMEWORKS, "floor": "the arithmetic alone"}.items()
    ]
    step = seconds[NOTEBOOK]
    ours = step["fused_mlp"]
    rate = cases[NOTEBOOK]["fma_rate"] / 1e9
    return f"""\
## A training step

![µs a training step of each framework, for two batch sizes and three numbers of hidden units](\
results/training_step.png)

float32, minibatches of n windows, H hidden units; every framework in a process of its own. By
`python benchmarks/training_step.py`, in [training_step.json](results/training_step.json).
{where(*cases.values())}.

{table(rows)}

At the notebook's size, {titles[NOTEBOOK]}, `FusedMLP` is {times(step["manual"] / ours)} times as
fast as the notebook's loop, {times(step["autograd"] / ours)} times as fast as eager torch and
{times(step["jax_scan"] / ours)} times as fast as `lax.scan`. It takes {times(ours / step["floor"])}
times as long as the arithmetic: 6 n H (K D + V) operations at the {number(rate)} GFLOP/s at which
the core multiplies and adds, measured in the same run. The notebook's loop is left out where its
products of n² H values would take gigabytes.
"""


def of_backends() -> str:
    """The training backends in one process."""
    record = load("compare")
    provenance = record["provenance"]
    step = {run["backend"]: run["step_seconds"] for run in record["backends"]}
    rows = [
        {
            "backend": f"`{name}`",
            "what it is": BACKENDS[name],
            "ms a step": seconds * 1e3,
            "`manual` / it": step["manual"] / seconds,
            "`autograd` / it": step["autograd"] / seconds,
        }
        for name, seconds in step.items()
    ]
    apart = max(run["maxdiff"] for run in record["backends"])
    is_ahead = step["vectorized"] < step["fused"]
    ahead = ": `vectorized`, which does without it, is ahead of `fused`" if is_ahead else ""
    return f"""\
## The training backends

![ms a training step of each backend](results/compare.png)

All in one process, {record["dtype"]}, H = {record["hidden"]}, n = {record["batch_size"]}. By
`{provenance["command"]}`, in
[compare.json](results/compare.json). {where({"environment": provenance, **provenance})}.

{table(rows)}

At this size autograd's own overhead is much of the step{ahead}. Over {record["judged_steps"]:,}
steps the losses of all agree with `autograd`'s within {apart:.1e}.
"""


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
    record = load("cross_entropy")
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
    record = load("batch_norm")
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


def of_kernels() -> str:
    """The kernels alone."""
    record = load("kernels")
    found: dict[str, dict[str, Any]] = {}
    for result in record["results"]:
        figures = kernels.shown(result, record["clock"])
        pass_name = figures[""].removesuffix(f", {result['dtype']}")
        cells = found.setdefault(f"{figures['kernel']}, {pass_name}", {})
        for name, value in list(figures.items())[2:]:
            cells[f"{name}, {result['dtype']}"] = value
    rows = [{"kernel": name, **cells} for name, cells in found.items()]
    then = (
        f""" "it / then" is beside the kernels of revision {record["against"]}, compiled and
measured in the same run."""
        if "against" in record
        else ""
    )
    return f"""\
## Kernels alone

One thread, without tensors, operators and autograd, in memory that is reused: what a call takes
when nobody is in its way. A line is 64 bytes of an input; the clock, {record["clock"] / 1e9:.2f}
GHz, is that of additions that wait for each other. "one pass / it" is the time of one pass over the
bytes that have to be read and written once, in the same cache, over the kernel's.{then} By `python
benchmarks/kernels.py`, in [kernels.json](results/kernels.json). {where(record)}.

{table(rows)}
"""


def small_rows(results: list[dict[str, Any]]) -> list[dict[str, str | None]]:
    """A row for each operation and tensor: the least and the largest ratio of its calls."""
    found: dict[tuple[str, str], dict[str, list[float]]] = {}
    for result in results:
        tensor = small_sizes.shown(result["shape"]).replace("x", "×")
        cells = found.setdefault((result["operation"], tensor), {})
        for name, ratio in small_sizes.ratios(result).items():
            part = small_sizes.BOTH if name == small_sizes.STEP else name
            cells.setdefault(f"{part}, {result['dtype']}", []).append(ratio)
    columns = dict.fromkeys(column for cells in found.values() for column in cells)

    def cell(ratios: list[float] | None) -> str | None:
        if ratios is None:
            return None
        least, largest = (f"{ratio:.2f}" for ratio in (min(ratios), max(ratios)))
        return least if len(ratios) == 1 else f"{least} to {largest}"

    return [
        {"torch / ours": f"{what} {tensor}", **{name: cell(cells.get(name)) for name in columns}}
        for (what, tensor), cells in found.items()
    ]


def of_small_sizes() -> str:
    """Calls on small tensors beside torch's own."""
    record = load("small_sizes")
    results, aim = record["results"], record["aim"]
    ratios = [ratio for result in results for ratio in small_sizes.ratios(result).values()]
    below = [
        f"Of {len(ratios)} ratios {len(found)} are below {limit:g}"
        for limit in (aim, 1)
        if (found := [ratio for ratio in ratios if ratio < limit])
    ]
    said = ", ".join(below).replace(f", Of {len(ratios)} ratios", ",")
    return f"""\
## Small tensors

How many times as fast as torch's own eager calls ours are, where the call costs more than the
kernel: the least and the largest ratio, for cross entropy over its reductions, with and without
label smoothing, for batch norm over function and module, training and evaluation, with and without
tanh. The embedding looks up so many indices in a table of {"×".join(map(str, small_sizes.TABLE))};
the training step is that of the backends `fused` and `autograd`, n×H, with its update. By `python
benchmarks/small_sizes.py`, in [small_sizes.json](results/small_sizes.json), call by call.
{where(record)}.

{table(small_rows(results))}

{said or f"None of {len(ratios)} ratios is below {aim:g}"}.
"""


def cuda_rows(operation: str, results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A row for each shape and dtype, a column for each pass, with the number of its launches."""
    found: dict[tuple[str, str], dict[str, float]] = {}
    launches: dict[str, set[int]] = {}
    for result in results:
        kind, _, what = result["operation"].partition(": ")
        name, _, layout = kind.partition(", ")
        if name == operation:
            title = "×".join(map(str, result["shape"])) + (f", {layout}" if layout else "")
            found.setdefault((title, result["dtype"]), {})[what] = result["microseconds"]
            launches.setdefault(what, set()).add(result["launches"])
    titles = {
        what: f"{what}: µs (launches: {' or '.join(map(str, sorted(counts)))})"
        for what, counts in launches.items()
    }
    return [
        {"shape": title, "dtype": dtype, **{titles[what]: value for what, value in row.items()}}
        for (title, dtype), row in found.items()
    ]


def of_cuda() -> str:
    """What the CUDA kernels move."""
    record = load("cuda_model")
    tables = [
        f"{title}:\n\n{table(cuda_rows(operation, record['results']))}"
        for operation, title in {
            "cross entropy": "Cross entropy of class indices, the mean",
            "batch norm": "Batch norm in training",
            "embedding": "The gradient of `embedding`, of so many tokens, rows and features",
        }.items()
    ]
    return f"""\
## CUDA: a model, not a measurement

The bytes that the CUDA kernels move, as µs at {record["bandwidth"] / 1e12:.3g} TB/s, the memory
bandwidth of an H100 SXM: none can be faster there, and what launches cost comes on top. By
`python benchmarks/cuda_model.py`, in [cuda_model.json](results/cuda_model.json). The tests run
these kernels without a device, and no time on one has been measured; `--device cuda` of
`benchmarks/cross_entropy.py` and `benchmarks/batch_norm.py` measures there.

{(chr(10) * 2).join(tables)}
"""
