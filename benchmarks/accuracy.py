"""How far results are from the truth, beside torch's: the error of every operation on random data.

    python benchmarks/accuracy.py [--quick]

The truth is torch's result in float64 for the same numbers. An error is the largest difference
over all elements of a result, in units of the dtype's eps times the result's largest element; what
is rounded once from the truth is off by at most 0.5. Kept are the median and the worst over the
draws. torch's is F.cross_entropy, F.batch_norm and F.embedding in the same dtype.
"""

import argparse
import math
from collections.abc import Callable
from functools import partial
from statistics import median
from typing import Any

import measure
import torch
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

DRAWS = 50
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
Results = dict[str, Tensor]  # by what they are
Functions = dict[str, Callable[..., Tensor]]  # "cross_entropy", "batch_norm", "embedding"
TORCH: Functions = {
    "cross_entropy": F.cross_entropy,
    "batch_norm": F.batch_norm,
    "embedding": F.embedding,
}
OURS: Functions = {
    "cross_entropy": mx.cross_entropy,
    "batch_norm": mx.batch_norm,
    "embedding": mx.embedding,
}


class Draw:
    """Random numbers, rounded to a dtype, as that dtype or as float64."""

    def __init__(self, seed: int, dtype: torch.dtype, *, exact: bool) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.dtype, self.exact = dtype, exact

    def normal(self, *shape: int, scale: float = 1.0, offset: float = 0.0) -> Tensor:
        drawn = torch.randn(shape, generator=self.generator) * scale + offset
        rounded = drawn.to(self.dtype)
        return rounded.double() if self.exact else rounded

    def indices(self, size: int, *shape: int) -> Tensor:
        return torch.randint(size, shape, generator=self.generator)

    def parameter(self, size: int, offset: float) -> Tensor:
        """float32 beside a narrower input, as under autocast."""
        drawn = torch.randn(size, generator=self.generator) * 0.1 + offset
        return drawn.double() if self.exact else drawn


def cross_entropy(
    functions: Functions, draw: Draw, *, shape: tuple[int, int], scale: float, **options: Any
) -> Results:
    """The mean loss, its gradient, and that gradient where it cancels: at the targets."""
    logits = draw.normal(*shape, scale=scale)
    target = draw.indices(shape[1], shape[0])
    if scale > 5:  # confident rows: what a trained network gives
        target = logits.argmax(1)
    logits.requires_grad_()
    loss = functions["cross_entropy"](logits, target, **options)
    (gradient,) = torch.autograd.grad(loss, logits)
    at_target = gradient.gather(1, target.unsqueeze(1))
    return {"loss": loss.detach(), "gradient": gradient, "gradient at targets": at_target}


def batch_norm(
    functions: Functions, draw: Draw, *, shape: tuple[int, ...], offset: float
) -> Results:
    """The output, the running variance and all gradients."""
    channels = shape[1]
    input = draw.normal(*shape, offset=offset).requires_grad_()
    weight, bias = (draw.parameter(channels, at).requires_grad_() for at in (1.0, 0.0))
    mean, var = torch.zeros_like(bias.detach()), torch.ones_like(bias.detach())
    output = functions["batch_norm"](input, mean, var, weight, bias, training=True)
    upstream = draw.normal(*shape)
    names = ("gradient", "gradient of weight", "gradient of bias")
    gradients = torch.autograd.grad(output, (input, weight, bias), upstream.to(output.dtype))
    return {
        "output": output.detach(),
        "running_var": var,
        **dict(zip(names, gradients, strict=True)),
    }


def embedding(functions: Functions, draw: Draw, *, rows: int) -> Results:
    """The gradient, a sum over many places."""
    weight = draw.normal(27, 10).requires_grad_()
    indices = draw.indices(27, rows, 3)
    output = functions["embedding"](indices, weight)
    upstream = draw.normal(rows, 3, 10)
    return {"gradient": torch.autograd.grad(output, weight, upstream.to(output.dtype))[0]}


CASES: dict[str, Callable[[Functions, Draw], Results]] = {
    "cross entropy, 32×27": partial(cross_entropy, shape=(32, 27), scale=1.0),
    "cross entropy, 4096×1000": partial(cross_entropy, shape=(4096, 1000), scale=1.0),
    "cross entropy, confident": partial(cross_entropy, shape=(512, 100), scale=12.0),
    "cross entropy, smoothing": partial(
        cross_entropy, shape=(512, 1000), scale=1.0, label_smoothing=0.1
    ),
    "batch norm, 32×200": partial(batch_norm, shape=(32, 200), offset=0.0),
    "batch norm, 4096×64": partial(batch_norm, shape=(4096, 64), offset=0.0),
    "batch norm, 16×32×28×28": partial(batch_norm, shape=(16, 32, 28, 28), offset=0.0),
    "batch norm, mean 100": partial(batch_norm, shape=(4096, 64), offset=100.0),
    "embedding, 4096×3": partial(embedding, rows=4096),
}


def error(actual: Tensor, truth: Tensor) -> float:
    """In eps of the largest element; infinite where one is not a number."""
    difference = (actual.double() - truth.double()).abs().max().item()
    largest = truth.abs().max().item() * torch.finfo(actual.dtype).eps
    return difference / largest if math.isfinite(difference) else math.inf


def measured(case: str, dtype: str, draws: int) -> list[dict[str, Any]]:
    """A row for each result of a case."""
    errors: dict[tuple[str, str], list[float]] = {}
    for seed in range(draws):
        run = CASES[case]
        truth = run(TORCH, Draw(seed, DTYPES[dtype], exact=True))
        for side, functions in (("ours", OURS), ("torch", TORCH)):
            results = run(functions, Draw(seed, DTYPES[dtype], exact=False))
            for name, result in results.items():
                errors.setdefault((name, side), []).append(error(result, truth[name]))
    names = dict.fromkeys(name for name, _ in errors)
    return [
        {
            "case": case,
            "dtype": dtype,
            "result": name,
            **{
                f"{side} {kind}": of(errors[name, side])
                for side in ("ours", "torch")
                for kind, of in (("median", median), ("worst", max))
            },
        }
        for name in names
    ]


def main() -> None:
    """Measures every case, prints and keeps the errors."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="3 draws, no result file")
    arguments = parser.parse_args()
    draws = 3 if arguments.quick else DRAWS
    rows = [row for dtype in DTYPES for case in CASES for row in measured(case, dtype, draws)]
    measure.print_rows("Errors, in eps of the largest element", rows)
    if not arguments.quick:
        measure.write("accuracy", {"draws": draws, "results": rows})


if __name__ == "__main__":
    main()
