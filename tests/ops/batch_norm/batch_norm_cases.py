"""Inputs and options that the tests of batch norm share."""

from collections.abc import Callable
from typing import Any

import torch
from support import assert_few_roundings, seeded
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
    *((40, 1024), (20, 8, 8, 8)),  # rows and planes that share places of the cache
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
        generator = seeded(seed)

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

    def leave_out_kinks(self, training: bool) -> None:
        """No gradient comes from where rounding decides on which side of relu's kink z is."""
        exact = self.double()
        running = exact.running_mean.clone(), exact.running_var.clone()
        z = F.batch_norm(exact.input, *running, exact.weight, exact.bias, training)
        self.grad_output = self.grad_output.where(~(z.abs() < 1e-3), 0)

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


def over_channels(input: Tensor) -> Callable[[Tensor], Tensor]:
    """Gives a vector of channels as many dimensions as `input` has."""
    return lambda vector: vector.view(-1, *[1] * (input.dim() - 2))


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
    spread = over_channels(input)
    mean, var = running_mean.clone(), running_var.clone()
    if training:
        var, mean = torch.var_mean(input, beside, correction=correction)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(input.var(beside, correction=1), momentum)
    normalized = (input - spread(mean)) / (spread(var) + eps).sqrt()
    return ACTIVATIONS[activation](normalized * spread(weight) + spread(bias))


# What roundings may cost, in half ulps of the type computed in, relative to the terms of a result:
#
#   statistics, on average over the elements: a difference from the centre 1, the sum of a pair 1,
#     so the mean 2 of a standard deviation; a square 3 and a pair 1, so invstd, of their root, 2
#   output: difference, factor and product 3, invstd 2, mean 2, bias 1; tanh 3
#   gradients of weight and bias: difference, product and pair 3. In a sum they are a random walk,
#     which stays below 3 times the root of the sum of the terms' squares; invstd 2
#   gradient of the input: two differences, factor and product 4, invstd 2; in what is fed back a
#     product 1, and the sums' own
ROUNDINGS = 12


def terms(case: Case, training: bool, correction: int = 0) -> list[Tensor]:
    """The magnitudes in float64 of what the results of `Case.run` are made of."""
    exact = case.double()
    input, grad, weight = exact.input, exact.grad_output.abs(), exact.weight.abs()
    beside = [dim for dim in range(input.dim()) if dim != 1]
    spread = over_channels(input)
    mean, var = exact.running_mean, exact.running_var
    running = mean.abs(), var
    if training:
        var, mean = torch.var_mean(input, beside, correction=correction)
        running = (
            running[0].lerp(mean.abs() + var.sqrt(), 0.1),
            running[1].lerp(input.var(beside, correction=1), 0.1),
        )
    distance = (input - spread(mean)).abs()
    if case.input.dtype == torch.float64:  # which is not wide enough for the mean of its kind
        distance = input.abs() + spread(mean).abs()
    invstd = (var + 1e-5).rsqrt()
    normalized = distance * spread(invstd)
    fed_back = 0.0
    if training:
        fed_back = spread(grad.mean(beside)) + normalized * spread((grad * normalized).mean(beside))
    return [
        (normalized + 1) * spread(weight) + spread(exact.bias.abs()),
        spread(weight * invstd) * (grad + fed_back),
        (grad * normalized).square().sum(beside).sqrt(),
        grad.square().sum(beside).sqrt(),
        *running,
    ]


def check_roundings(
    results: list[Tensor], truths: list[Tensor], case: Case, training: bool, correction: int = 0
) -> None:
    """Holds the results of `case.run` to ROUNDINGS."""
    compute = torch.promote_types(case.input.dtype, torch.float32)
    roundings = ROUNDINGS
    if compute == torch.float64:  # sums are no wider than their terms, nor is the truth
        roundings = 2 * (ROUNDINGS + (case.input.numel() / case.input.shape[1]) ** 0.5)
    magnitudes = terms(case, training, correction)
    for result, truth, magnitude in zip(results, truths, magnitudes, strict=True):
        assert_few_roundings(result, truth, magnitude, roundings, compute)
