"""Forward and backward of this package beside torch's."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from makemore_ext.bench.timing import Contenders, interleaved
from makemore_ext.ops.batch_norm import batch_norm
from makemore_ext.ops.cross_entropy import cross_entropy
from makemore_ext.ops.embedding import embedding


def _cross_entropy(input: Tensor) -> Contenders:
    target = torch.randint(input.shape[1], (input.shape[0], *input.shape[2:]), device=input.device)

    def step(function: Callable[..., Any]) -> Any:
        return torch.autograd.grad(function(input, target), input)

    return {"torch": lambda: step(F.cross_entropy), "makemore_ext": lambda: step(cross_entropy)}


def _channels_last(input: Tensor) -> Contenders:
    pixels = input.detach().movedim(1, -1).contiguous().movedim(-1, 1)
    return _cross_entropy(pixels.requires_grad_())


def _double_backward(input: Tensor) -> Contenders:
    target = torch.randint(input.shape[1], (input.shape[0], *input.shape[2:]), device=input.device)
    vector = torch.randn_like(input, requires_grad=False)

    def step(function: Callable[..., Any]) -> Any:
        (gradient,) = torch.autograd.grad(function(input, target), input, create_graph=True)
        return torch.autograd.grad(gradient, input, vector)

    return {"torch": lambda: step(F.cross_entropy), "makemore_ext": lambda: step(cross_entropy)}


def _loss_alone(input: Tensor) -> Contenders:
    target = torch.randint(input.shape[1], (input.shape[0], *input.shape[2:]), device=input.device)
    logits = input.detach()
    return {
        "torch": lambda: F.cross_entropy(logits, target),
        "makemore_ext": lambda: cross_entropy(logits, target),
    }


def _batch_norm(input: Tensor, activation: str | None = None) -> Contenders:
    ones = torch.ones(input.shape[1], dtype=torch.float32, device=input.device)
    weight, bias = (ones.clone().requires_grad_() for _ in range(2))
    running = torch.zeros_like(ones), ones
    grad_output = torch.randn_like(input, requires_grad=False)
    leaves = (input, weight, bias)

    def step(function: Callable[..., Any]) -> Any:
        output = function(input, *running, weight, bias, True)
        return torch.autograd.grad(output, leaves, grad_output)

    def theirs(*arguments: Any) -> Tensor:
        output = F.batch_norm(*arguments)
        return output.tanh() if activation else output

    ours = partial(batch_norm, activation=activation)
    return {"torch": lambda: step(theirs), "makemore_ext": lambda: step(ours)}


def _embedding(weight: Tensor) -> Contenders:
    indices = torch.randint(weight.shape[0], (4096, 3), device=weight.device)
    grad_output = torch.randn(4096, 3, weight.shape[1], device=weight.device).to(weight.dtype)

    def step(function: Callable[..., Any]) -> Any:
        return torch.autograd.grad(function(indices, weight), weight, grad_output)

    return {"torch": lambda: step(F.embedding), "makemore_ext": lambda: step(embedding)}


OPERATIONS: dict[str, Callable[[Tensor], Contenders]] = {
    "cross_entropy": _cross_entropy,
    "cross_entropy channels last": _channels_last,
    "cross_entropy double backward": _double_backward,
    "loss alone": _loss_alone,
    "batch_norm": _batch_norm,
    "batch_norm tanh": partial(_batch_norm, activation="tanh"),
    "embedding": _embedding,
}


def bench(
    operation: str, shape: tuple[int, ...], dtype: torch.dtype, rounds: int, device: str = "cpu"
) -> dict[str, float]:
    """Seconds of a copy of the input, and of forward and backward by "torch" and "makemore_ext".

    Args:
        operation: one of OPERATIONS.
        shape: of the input, [N, C, d1, ...].
        dtype: of the input; parameters of batch norm are float32.
        rounds: of which the median is taken.
        device: "cpu" or "cuda".
    """
    return interleaved(contenders(operation, shape, dtype, device), rounds, device)


def contenders(
    operation: str, shape: tuple[int, ...], dtype: torch.dtype, device: str = "cpu"
) -> Contenders:
    """What `bench` measures."""
    generator = torch.Generator().manual_seed(0)
    drawn = torch.randn(shape, generator=generator, dtype=torch.float32, device="cpu")
    input = drawn.to(device, dtype)
    copied = torch.empty_like(input)
    copy: Contenders = {"copy": lambda: copied.copy_(input.detach())}
    return copy | OPERATIONS[operation](input.requires_grad_())
