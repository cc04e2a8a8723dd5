"""Every gradient derived by hand, and every fused function, against autograd.

All functions take the network's parameters and a minibatch, x int64 [n, context] and y int64 [n]
with n at least 2, and leave them as they are; `run` makes both and calls all of them.
"""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_ext import reference
from makemore_ext._arguments import require
from makemore_ext._parameters import SEED
from makemore_ext.check.comparison import Comparison, compare
from makemore_ext.makemore.data import Dataset
from makemore_ext.makemore.model import MLP
from makemore_ext.ops.batch_norm import batch_norm
from makemore_ext.ops.cross_entropy import cross_entropy
from makemore_ext.ops.embedding import embedding
from makemore_ext.reference import Parameters

# In a smaller batch the variance of a column can come so near 0 that the rounding of fp32 alone
# makes equal formulas differ by more than `compare` allows.
MIN_BATCH_SIZE = 8


class Differentiated(NamedTuple):
    """A network's variables and their gradients by autograd, all detached, by name."""

    parameters: Parameters
    variables: dict[str, Tensor]
    gradients: dict[str, Tensor]


def exercise_1(parameters: Parameters, x: Tensor, y: Tensor) -> list[Comparison]:
    """The gradients of all 26 steps and parameters, in the order of the backward pass."""
    parameters, variables, gradients = differentiate(parameters, x, y)
    by_hand = reference.backward(parameters, x, y, variables)
    return [
        compare(name, gradient, gradients[name], terms=summed(name, gradients))
        for name, gradient in by_hand.items()
    ]


def summed(name: str, gradients: dict[str, Tensor]) -> float:
    """The size of the terms of the two gradients that are 0 but for rounding; else 0."""
    if name == "logit_maxes":  # minus the sum of a row
        return gradients["norm_logits"].abs().sum(1).max().item()
    if name == "b1":  # the sum of a column
        return gradients["hprebn"].abs().sum(0).max().item()
    return 0.0


def magnitudes(parameters: Parameters, x: Tensor, y: Tensor) -> dict[str, tuple[float, float]]:
    """The largest element of each gradient of exercise 1, and its largest difference."""
    parameters, variables, gradients = differentiate(parameters, x, y)
    by_hand = reference.backward(parameters, x, y, variables)
    return {
        name: (
            gradients[name].abs().max().item(),
            compare(name, gradient, gradients[name]).maxdiff,
        )
        for name, gradient in by_hand.items()
    }


def exercise_2(parameters: Parameters, x: Tensor, y: Tensor) -> list[Comparison]:
    """Cross entropy in one expression against its steps, and both forms of its gradient."""
    _, variables, gradients = differentiate(parameters, x, y)
    logits, expected = variables["logits"], gradients["logits"]
    one_hot = reference.cross_entropy_backward_one_hot(logits, y)
    return [
        compare("loss", F.cross_entropy(logits, y), variables["loss"]),
        compare("logits, closed form", reference.cross_entropy_backward(logits, y), expected),
        compare("logits, one-hot form", one_hot, expected),
    ]


def exercise_3(parameters: Parameters, x: Tensor, y: Tensor) -> list[Comparison]:
    """Batch norm in one expression against its steps, and both forms of its gradient."""
    parameters, variables, gradients = differentiate(parameters, x, y)
    hprebn, expected = variables["hprebn"], gradients["hprebn"]
    bngain, bnbias = parameters.bngain, parameters.bnbias
    hpreact = reference.batch_norm_forward(hprebn, bngain, bnbias)
    given = gradients["hpreact"], hprebn, bngain
    closed = reference.batch_norm_backward(*given)
    broadcast = reference.batch_norm_backward_broadcast(*given)
    return [
        compare("hpreact", hpreact, variables["hpreact"]),
        compare("hprebn, closed form", closed, expected),
        compare("hprebn, broadcast form", broadcast, expected),
    ]


def fused(parameters: Parameters, x: Tensor, y: Tensor) -> list[Comparison]:
    """This package's functions: outputs against the steps, gradients against both derivations."""
    parameters, variables, gradients = differentiate(parameters, x, y)
    by_hand = reference.backward(parameters, x, y, variables)

    def batch_normed(
        hprebn: Tensor, bngain: Tensor, bnbias: Tensor, *, activation: str | None
    ) -> Tensor:
        return batch_norm(
            hprebn,
            None,
            None,
            bngain,
            bnbias,
            training=True,
            eps=reference.EPS,
            correction=1,
            activation=activation,
        )

    batch_norm_inputs = ("hprebn", "bngain", "bnbias")
    cases: list[tuple[str, Callable[..., Tensor], tuple[str, ...], str]] = [
        ("cross_entropy", partial(cross_entropy, target=y), ("logits",), "loss"),
        ("batch_norm", partial(batch_normed, activation=None), batch_norm_inputs, "hpreact"),
        ("batch_norm tanh", partial(batch_normed, activation="tanh"), batch_norm_inputs, "h"),
        ("embedding", partial(embedding, x), ("C",), "emb"),
    ]
    rows = []
    for function, call, inputs, output in cases:
        leaves = [variables[name].clone().requires_grad_() for name in inputs]
        result = call(*leaves)
        found = torch.autograd.grad(result, leaves, gradients[output])
        expected = variables[output]
        rows.append(compare(f"{function}: {output}", result, expected))
        for name, gradient in zip(inputs, found, strict=True):
            rows += [
                compare(f"{function}: d{name}, autograd", gradient, gradients[name]),
                compare(f"{function}: d{name}, by hand", gradient, by_hand[name]),
            ]
    return rows


def run(
    *,
    dtype: torch.dtype = torch.float32,
    hidden: int = 64,
    batch_size: int = 32,
    seed: int = SEED,
) -> dict[str, list[Comparison]]:
    """Make all comparisons on a new network and a minibatch of the embedded names.

    Args:
        dtype: float32 or float64.
        hidden: Number of hidden units, at least 1.
        batch_size: n, at least 8.
        seed: Of the one generator that draws first the network, then the minibatch.

    Returns:
        The comparisons by the title of their table, in the order of the exercises.

    Raises:
        ValueError: dtype, hidden or batch_size is another.
    """
    given = example(dtype=dtype, hidden=hidden, batch_size=batch_size, seed=seed)
    return {
        "Exercise 1: every step by hand": exercise_1(*given),
        "Exercise 2: cross entropy in one expression": exercise_2(*given),
        "Exercise 3: batch norm in one expression": exercise_3(*given),
        "Fused functions": fused(*given),
    }


def example(
    *,
    dtype: torch.dtype = torch.float32,
    hidden: int = 64,
    batch_size: int = 32,
    seed: int = SEED,
) -> tuple[Parameters, Tensor, Tensor]:
    """Draw a new network and a minibatch of the embedded names; see `run` for the arguments.

    Noise of 0.1 moves the gain off 1 and the biases off 0, where a formula that leaves them out
    would pass.

    Returns:
        The parameters, x [batch_size, 3] and y [batch_size].
    """
    require(batch_size >= MIN_BATCH_SIZE, "batch_size", batch_size, f"at least {MIN_BATCH_SIZE}")
    generator = torch.Generator().manual_seed(seed)
    dataset = Dataset.load()
    model = MLP.init(len(dataset.vocabulary), hidden=hidden, dtype=dtype, generator=generator)
    x, y = dataset.train
    drawn = torch.randint(0, len(x), (batch_size,), generator=generator, device="cpu")

    def moved(parameter: Tensor) -> Tensor:
        shape = parameter.shape
        noise = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
        return parameter.detach() + 0.1 * noise.to(dtype)

    parameters = model.parameters()._replace(
        b1=moved(model.b1),
        b2=moved(model.b2),
        bngain=moved(model.bngain),
        bnbias=moved(model.bnbias),
    )
    return parameters, x[drawn], y[drawn]


def differentiate(parameters: Parameters, x: Tensor, y: Tensor) -> Differentiated:
    """Run the network's steps and let autograd find the gradient of each and of the parameters."""
    leaves = Parameters(*(parameter.detach().requires_grad_() for parameter in parameters))
    steps = reference.forward(leaves, x, y)
    variables = {**leaves._asdict(), **steps}
    gradients = torch.autograd.grad(steps["loss"], list(variables.values()))
    detached = {name: variable.detach() for name, variable in variables.items()}
    return Differentiated(
        Parameters(*(detached[name] for name in Parameters._fields)),
        detached,
        dict(zip(variables, gradients, strict=True)),
    )
