"""Inputs and options that the tests of batch norm share."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
WIDE = (torch.float32, torch.float64)
ACTIVATIONS: dict[str | None, Callable[[Tensor], Tensor]] = {
    None: lambda x: x,
    "tanh": torch.tanh,
    "relu": torch.relu,
}
SHAPES = (
    *((32, 64), (32, 200), (2, 1), (3, 5), (17, 8), (100, 33), (1500, 24), (8, 3000)),
    *((4, 5, 3), (3, 2, 17), (2, 4, 600), (1, 3, 33), (5, 16, 1)),
    *((2, 3, 7, 9), (4, 40, 7, 7), (3, 6, 14, 14), (2, 3, 90, 200), (3, 5, 1, 1)),
    *((2, 3, 4, 5, 6), (2, 20, 2, 3, 11), (1100, 2), (20, 3, 10, 15)),
)


class Case:
    """One input with everything that batch norm takes."""

    def __init__(
        self,
        shape: tuple[int, ...],
        dtype: torch.dtype,
        offset: float = 0.0,
        parameter_dtype: torch.dtype | None = None,
        seed: int = 0,
    ):
        generator = torch.Generator().manual_seed(seed)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, dtype=torch.float64, generator=generator)

        parameter_dtype = parameter_dtype or dtype
        channels = shape[1]
        self.input = (draw(*shape) * 2 + offset).to(dtype)
        self.weight = (draw(channels) + 2).to(parameter_dtype)
        self.bias = draw(channels).to(parameter_dtype)
        self.running_mean = (draw(channels) + offset).to(parameter_dtype)
        self.running_var = (draw(channels).square() + 0.5).to(parameter_dtype)
        self.grad_output = draw(*shape).to(dtype)

    def double(self) -> "Case":
        return self._changed(Tensor.double)

    def contiguous(self) -> "Case":
        return self._changed(Tensor.contiguous)

    def _changed(self, change: Callable[[Tensor], Tensor]) -> "Case":
        other = object.__new__(Case)
        other.__dict__ = {name: change(tensor) for name, tensor in self.__dict__.items()}
        return other

    def run(self, function: Callable[..., Tensor], training: bool, **options: Any) -> list[Tensor]:
        """Output, gradients of input, weight and bias, and both running statistics."""
        leaves = [t.detach().requires_grad_() for t in (self.input, self.weight, self.bias)]
        running = [self.running_mean.clone(), self.running_var.clone()]
        input, weight, bias = leaves
        output = function(input, *running, weight, bias, training, **options)
        gradients = torch.autograd.grad(output, leaves, self.grad_output)
        return [output.detach(), *gradients, *running]


def torch_batch_norm(*arguments: Any, activation: str | None = None, **options: Any) -> Tensor:
    return ACTIVATIONS[activation](F.batch_norm(*arguments, **options))


def step_by_step(
    input: Tensor,
    running_mean: Tensor,
    running_var: Tensor,
    weight: Tensor,
    bias: Tensor,
    training: bool,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    correction: int = 0,
    activation: str | None = None,
) -> Tensor:
    """Batch norm in torch operations, differentiated by autograd."""
    beside = [dim for dim in range(input.dim()) if dim != 1]

    def spread(vector: Tensor) -> Tensor:
        return vector.view(-1, *[1] * (input.dim() - 2))

    mean, var = running_mean.clone(), running_var.clone()
    if training:
        var, mean = torch.var_mean(input, beside, correction=correction)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(input.var(beside, correction=1), momentum)
    normalized = (input - spread(mean)) / (spread(var) + eps).sqrt()
    return ACTIVATIONS[activation](normalized * spread(weight) + spread(bias))
