"""Inputs and options that the tests of cross entropy share."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from support import seeded, upstream
from torch import Tensor

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDE = (torch.float32, torch.float64)
SHAPES = (
    *((32, 27), (1, 1), (2, 1), (1, 8), (3, 5), (17, 8), (5, 33), (64, 130), (3, 5000)),
    *((27,), (1,), (4, 5, 3), (2, 3, 7, 9), (2, 21, 16, 16), (3, 200, 40), (2, 4, 3, 2, 5)),
)
OPTIONS: dict[str, dict] = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "ignore": {"ignore_index": 0},
    "ignore none": {"ignore_index": 0, "reduction": "none"},
    "smoothing": {"label_smoothing": 0.1},
    "all smoothing": {"label_smoothing": 1.0, "reduction": "sum"},
    "weight": {"weight": True},
    "weight ignore smoothing": {"weight": True, "ignore_index": 0, "label_smoothing": 0.3},
}
PROBABILITY_OPTIONS = {
    name: options for name, options in OPTIONS.items() if "ignore_index" not in options
}


def logits(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 0) -> Tensor:
    generator = seeded(seed)
    return (torch.randn(shape, dtype=torch.float64, generator=generator) * 3).to(dtype)


def indices(shape: tuple[int, ...], dtype: torch.dtype = torch.int64, seed: int = 1) -> Tensor:
    generator = seeded(seed)
    classes = shape[0] if len(shape) == 1 else shape[1]
    rows = () if len(shape) == 1 else (shape[0], *shape[2:])
    return torch.randint(0, classes, rows, generator=generator).to(dtype)


def probabilities(shape: tuple[int, ...], dtype: torch.dtype, seed: int = 1) -> Tensor:
    return logits(shape, torch.float64, seed).softmax(0 if len(shape) == 1 else 1).to(dtype)


def float64_target(kind: str, shape: tuple[int, ...], seed: int = 1) -> Tensor:
    """For derivatives: probabilities, or indices of which one at least is not ignored."""
    if kind == "probabilities":
        return probabilities(shape, torch.float64, seed)
    target = indices(shape, seed=seed)
    target.view(-1)[0] = 2
    return target


def with_weight(options: dict, shape: tuple[int, ...], dtype: torch.dtype) -> dict:
    """The options with the weights of the classes where they ask for some."""
    if not options.get("weight"):
        return options
    generator = seeded(2)
    classes = shape[0] if len(shape) == 1 else shape[1]
    return {**options, "weight": (torch.rand(classes, generator=generator) + 0.5).to(dtype)}


TARGETS: dict[str, tuple[Callable[..., Tensor], dict[str, dict]]] = {
    "indices": (lambda shape, dtype, seed=1: indices(shape, seed=seed), OPTIONS),
    "probabilities": (probabilities, PROBABILITY_OPTIONS),
}
CASES = [
    pytest.param(make_target, options, shape, id=f"{kind}-{name}-{'x'.join(map(str, shape))}")
    for kind, (make_target, table) in TARGETS.items()
    for name, options in table.items()
    for shape in SHAPES
]


def doubled(options: dict) -> dict:
    """The options with what is floating in float64, for the truth."""
    return {
        name: value.double() if isinstance(value, Tensor) and value.is_floating_point() else value
        for name, value in options.items()
    }


def loss_and_gradient(
    function: Callable[..., Any], input: Tensor, target: Tensor, **options: Any
) -> tuple[Tensor, Tensor]:
    input = input.detach().requires_grad_()
    loss = function(input, target, **options)
    return loss.detach(), torch.autograd.grad(loss, input, upstream(loss))[0]


def second_gradients(
    function: Callable[..., Any], input: Tensor, target: Tensor, direction: Tensor, **options: Any
) -> tuple[Tensor, ...]:
    """From `direction`, the gradient of the gradient: those of the upstream one and of input."""
    input = input.detach().requires_grad_()
    loss = function(input, target, **options)
    grad_loss = upstream(loss).requires_grad_()
    (gradient,) = torch.autograd.grad(loss, input, grad_loss, create_graph=True)
    return torch.autograd.grad(gradient, (grad_loss, input), direction)
