"""Small tensors, where calls cost more than kernels: torch's own eager calls, and ours.

    python benchmarks/small_sizes.py [--quick]

On one thread, forward alone, where nothing requires a gradient, and forward and backward, with
respect to every leaf that has one. Both sides get the same arguments, and backward is
torch.autograd.grad from an upstream gradient that is there. Torch's tanh is a call of its own, ours
the fused activation. Before anything is timed, outputs and gradients are compared.

The training step is that of the notebook's network, forward, backward and update, in the backends
`autograd` and `fused`; it is taken on one minibatch over and over. Calls below the aim are marked,
and listed in the result file.
"""

import argparse
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import measure
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext.bench import Contenders, interleaved
from makemore_ext.makemore import BACKENDS, MLP
from makemore_ext.reference import Parameters

AIM = 1.2  # torch / ours
ROUNDS, CALLS = 31, 100  # of each contender: turns, and calls in a turn
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = {"float32": 1e-4, "bfloat16": 5e-2}  # of the largest value: these are the same sums
LOGITS = ((1, 27), (32, 27), (128, 65), (1024, 27))
INPUTS = ((32, 64), (32, 200), (256, 200), (8, 16, 8, 8))
INDICES = ((32, 3), (256, 3))
TABLE = (27, 10)
STEPS = ((32, 64), (32, 200), (256, 200))  # windows, hidden units
FORWARD, BOTH, STEP = "forward", "forward and backward", "step"
RATE = 0.1
COMPARED_STEPS = 10
MOST_PRINTED = 10  # of the calls below the aim

Sides = dict[str, Callable[..., Tensor]]  # "torch" and "ours"


@dataclass(frozen=True)
class Case:
    """A call, which either side has as a function of the leaves."""

    operation: str
    shape: tuple[int, ...]
    dtype: str
    call: str
    leaves: tuple[Tensor, ...]
    sides: Sides


def seeded() -> torch.Generator:
    """The same values on every run."""
    return torch.Generator().manual_seed(0)


def cross_entropies(dtype: str) -> Iterator[Case]:
    """Every reduction, with and without label smoothing."""
    for shape in LOGITS:
        logits = torch.randn(shape, generator=seeded()).to(DTYPES[dtype])
        target = torch.randint(shape[1], shape[:1], generator=seeded())
        for reduction in ("none", "mean", "sum"):
            for smoothing in (0.0, 0.1):
                options = {"reduction": reduction, "label_smoothing": smoothing}
                sides: Sides = {
                    "torch": lambda x, y=target, o=options: F.cross_entropy(x, y, **o),
                    "ours": lambda x, y=target, o=options: mx.cross_entropy(x, y, **o),
                }
                call = f"{reduction}, smoothing {smoothing:g}"
                yield Case("cross entropy", shape, dtype, call, (logits,), sides)


def batch_norms(dtype: str) -> Iterator[Case]:
    """Function and module, in training and in evaluation, with and without tanh."""
    for shape in INPUTS:
        input = torch.randn(shape, generator=seeded()).to(DTYPES[dtype])
        for training in (True, False):
            for activation in (None, "tanh"):
                for kind, make in (("function", norm_functions), ("module", norm_modules)):
                    parameters, sides = make(input, training, activation)
                    call = f"{kind}, {'training' if training else 'evaluation'}"
                    call += f", {activation}" if activation else ""
                    leaves = (input, *parameters)
                    yield Case("batch norm", shape, dtype, call, leaves, sides)


def norm_functions(
    input: Tensor, training: bool, activation: str | None
) -> tuple[tuple[Tensor, ...], Sides]:
    """The functional forms: weight and bias, and what takes them after the input."""
    ones, zeros = (make(input.shape[1], dtype=input.dtype) for make in (torch.ones, torch.zeros))
    running = zeros.clone(), ones.clone()

    def plain(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return F.batch_norm(x, *running, weight, bias, training)

    def then_tanh(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.tanh(F.batch_norm(x, *running, weight, bias, training))

    def ours(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return mx.batch_norm(x, *running, weight, bias, training)

    def ours_tanh(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return mx.batch_norm(x, *running, weight, bias, training, activation="tanh")

    if activation is None:
        return (ones, zeros), {"torch": plain, "ours": ours}
    return (ones, zeros), {"torch": then_tanh, "ours": ours_tanh}


def norm_modules(
    input: Tensor, training: bool, activation: str | None
) -> tuple[tuple[Tensor, ...], Sides]:
    """The modules; weight and bias are those of both."""
    name = "BatchNorm1d" if input.dim() == 2 else "BatchNorm2d"
    theirs = getattr(nn, name)(input.shape[1]).to(input.dtype).train(training)
    ours = getattr(mx, name)(input.shape[1], activation=activation)
    ours = ours.to(input.dtype).train(training)
    ours.weight, ours.bias = theirs.weight, theirs.bias
    plain: Sides = {"torch": lambda x, *_: theirs(x), "ours": lambda x, *_: ours(x)}
    then_tanh: Sides = {**plain, "torch": lambda x, *_: torch.tanh(theirs(x))}
    return (theirs.weight, theirs.bias), plain if activation is None else then_tanh


def embeddings(dtype: str) -> Iterator[Case]:
    """The notebook's look-up."""
    weight = torch.randn(TABLE, generator=seeded()).to(DTYPES[dtype])
    for shape in INDICES:
        input = torch.randint(TABLE[0], shape, generator=seeded())
        sides: Sides = {
            "torch": lambda w, i=input: F.embedding(i, w),
            "ours": lambda w, i=input: mx.embedding(i, w),
        }
        yield Case("embedding", shape, dtype, "of {}x{}".format(*TABLE), (weight,), sides)


def training_steps(dtype: str) -> Iterator[Case]:
    """The notebook's step, for so many windows and hidden units; it differentiates itself."""
    for batch, hidden in STEPS:
        generator = seeded()
        model = MLP.init(hidden=hidden, generator=generator)
        x = torch.randint(model.vocabulary_size, (batch, model.context), generator=generator)
        y = torch.randint(model.vocabulary_size, (batch,), generator=generator)
        sides = {
            side: stepper(model, backend, dtype, x, y)
            for side, backend in (("torch", "autograd"), ("ours", "fused"))
        }
        yield Case("training step", (batch, hidden), dtype, "with the update", (), sides)


def stepper(model: MLP, backend: str, dtype: str, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """A function that takes a step with parameters of its own."""
    drawn = (parameter.detach().clone() for parameter in model.parameters())
    parameters = Parameters(*(values.to(DTYPES[dtype]).requires_grad_() for values in drawn))
    differentiate = BACKENDS[backend]

    def step() -> Tensor:
        loss, gradients = differentiate(parameters, x, y)
        with torch.no_grad():
            for parameter, gradient in zip(parameters, gradients, strict=True):
                parameter.add_(gradient, alpha=-RATE)
        return loss

    return step


def check(case: Case, theirs: list[Tensor], ours: list[Tensor]) -> None:
    """Ends the run where the two sides do not compute the same."""
    for expected, found in zip(theirs, ours, strict=True):
        difference = (expected.double() - found.double()).abs().max()
        if not difference <= TOLERANCE[case.dtype] * expected.abs().max().clamp(min=1):
            raise SystemExit(f"{title(case)}: {found} is not what torch has, {expected}")


def bench(case: Case, rounds: int) -> dict[str, Any]:
    """Measures a call, forward alone and with backward; a training step, which is both, as one."""
    leaves, sides = case.leaves, case.sides
    seconds = {}
    if leaves:
        for leaf in leaves:
            leaf.requires_grad_(False)
        forward: Sides = {name: partial(f, *leaves) for name, f in sides.items()}
        seconds[FORWARD] = interleaved(forward, rounds, calls=CALLS)
        output = forward["torch"]()
        # A loss that is a number has the upstream gradient 1, as in loss.backward().
        shape = output.shape
        upstream = torch.randn(shape, generator=seeded()) if shape else torch.ones(())
        upstream = upstream.to(output.dtype)
        for leaf in leaves:
            leaf.requires_grad_()

        def differentiated(function: Callable[..., Tensor]) -> list[Tensor]:
            output = function(*leaves)
            return [output, *torch.autograd.grad(output, leaves, upstream)]

        check(case, differentiated(sides["torch"]), differentiated(sides["ours"]))
        both: Contenders = {name: partial(differentiated, f) for name, f in sides.items()}
        seconds[BOTH] = interleaved(both, rounds, calls=CALLS)
        for leaf in leaves:
            leaf.requires_grad_(False)
    else:
        for _ in range(COMPARED_STEPS):
            check(case, [sides["torch"]()], [sides["ours"]()])
        seconds[STEP] = interleaved(sides, rounds, calls=CALLS)
    return {
        "operation": case.operation,
        "shape": list(case.shape),
        "dtype": case.dtype,
        "call": case.call,
        "seconds": seconds,
    }


def title(case: Case) -> str:
    """What a call is, in a line."""
    return f"{case.operation} {shown(case.shape)} {case.dtype}, {case.call}"


def shown(shape: Sequence[int]) -> str:
    """A shape as tables have it."""
    return "x".join(map(str, shape))


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """Of a result torch / ours, forward and with backward."""
    return {name: each["torch"] / each["ours"] for name, each in result["seconds"].items()}


def below_aim(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The calls that are not as fast as they should be, the slowest first."""
    found = [
        {
            "torch / ours": ratio,
            **{key: result[key] for key in ("operation", "shape", "dtype", "call")},
            "pass": name,
        }
        for result in results
        for name, ratio in ratios(result).items()
        if ratio < AIM
    ]
    return sorted(found, key=lambda row: row["torch / ours"])


def summary(result: dict[str, Any]) -> dict[str, Any]:
    """The row of the table for a result."""
    row = {"tensor": shown(result["shape"]), "dtype": result["dtype"], "call": result["call"]}
    for name, ratio in ratios(result).items():
        for side, seconds in result["seconds"][name].items():
            row[f"{name}: {side} µs"] = f"{seconds * 1e6:.1f}"
        row[f"{name}: torch / ours"] = f"{'< ' if ratio < AIM else ''}{ratio:.2f}"
    return row


def main() -> None:
    """Measures every call in every dtype, prints the tables, writes the result file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="3 rounds, no result file")
    rounds = 3 if parser.parse_args().quick else ROUNDS
    torch.set_num_threads(1)
    results = [
        bench(case, rounds)
        for cases in (cross_entropies, batch_norms, embeddings, training_steps)
        for dtype in DTYPES
        for case in cases(dtype)
    ]
    for operation in dict.fromkeys(result["operation"] for result in results):
        rows = [summary(result) for result in results if result["operation"] == operation]
        measure.print_rows(f"{operation}, 1 thread; < where torch / ours is below {AIM}", rows)
    below, count = below_aim(results), sum(len(result["seconds"]) for result in results)
    print(f"{len(below)} of {count} below {AIM}")
    if below:
        slowest = [{**row, "shape": shown(row["shape"])} for row in below[:MOST_PRINTED]]
        measure.print_rows("the slowest", slowest)
    if rounds == ROUNDS:
        what = {"threads": 1, "aim": AIM, "results": results, "below_aim": below}
        measure.write("small_sizes", what)


if __name__ == "__main__":
    main()
