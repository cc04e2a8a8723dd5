"""The notebook's training step, in each framework and in each backend of this package."""

from statistics import median
from typing import Any

import measure
import training_step

from sections.prose import number, table, times, where

NOTEBOOK = "32x200"  # the case of training_step.py that is the notebook's
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


def step_seconds(case: dict[str, Any]) -> dict[str, float]:
    """Of a case of training_step.json: each framework's step, and its arithmetic alone."""
    steps = {name: median(rounds) for name, rounds in case["round_seconds"].items()}
    return {**steps, "floor": case["operations"] / case["fma_rate"]}


def of_training_step() -> str:
    """The whole step in each framework."""
    cases = measure.load("training_step")["cases"]
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

![Time of a training step of each framework, for two batch sizes and three numbers of hidden units]\
(results/training_step.svg)

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
    record = measure.load("compare")
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
    alone = step_seconds(measure.load("training_step")["cases"][NOTEBOOK])["fused_mlp"]
    is_ahead = step["vectorized"] < step["fused"]
    ahead = ": `vectorized`, which does without it, is ahead of `fused`" if is_ahead else ""
    return f"""\
## The training backends

![Time of a training step of each backend](results/compare.svg)

All in one process, {record["dtype"]}, H = {record["hidden"]}, n = {record["batch_size"]}. By
`{provenance["command"]}`, in
[compare.json](results/compare.json). {where({"environment": provenance, **provenance})}.

{table(rows)}

A round is {record["steps"] // record["rounds"]} steps, in one process with the others: `fused_mlp`
begins each with cold caches and a workspace of its own, and takes
{times(step["fused_mlp"] / alone)} times as long as above, thousands of steps in a row.

At this size autograd's own overhead is much of the step{ahead}. Over {record["judged_steps"]:,}
steps the losses of all agree with `autograd`'s within {apart:.1e}.
"""
