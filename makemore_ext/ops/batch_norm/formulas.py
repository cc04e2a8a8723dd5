"""The formulas of csrc/cpu/batch_norm/batch_norm.cpp in torch operations.

They serve what the kernels do not compute: gradients of the gradient, and tangents.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from makemore_ext.ops.batch_norm.options import ACTIVATIONS, Options
from makemore_ext.ops.tensors import compute_dtype


class Terms(NamedTuple):
    """What the output is made of, each broadcast against the input; see batch_norm.cpp."""

    normalized: Tensor  # xhat
    invstd: Tensor
    scale: Tensor | float  # weight
    slope: Tensor | float  # of the activation, at its argument
    elements: int  # of a channel


def _per_channel(vector: Tensor, input: Tensor) -> Tensor:
    return vector.view(-1, *([1] * (input.dim() - 2)))


def _beside_channels(input: Tensor) -> list[int]:
    return [dim for dim in range(input.dim()) if dim != 1]


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum(_beside_channels(tensor), keepdim=True)


def terms(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor | None,
    options: Options,
) -> Terms:
    """`statistics` are those of evaluation, None where they are functions of the input."""
    x = input.to(compute_dtype(input))
    count = x.numel() // max(1, x.shape[1])
    if statistics is None:
        centred = x - _sum(x) / count
        variance = _sum(centred.square()) / (count - options.correction)
        invstd = (variance + options.eps).rsqrt()
    else:
        mean, _, invstd = (_per_channel(row, input) for row in statistics)
        centred = (x - mean).to(x.dtype)
        invstd = invstd.to(x.dtype)
    normalized = centred * invstd
    scale = 1.0 if weight is None else _per_channel(weight, input)
    slope: Tensor | float = 1.0
    if options.activation != ACTIVATIONS[None]:
        z = normalized * scale + (0.0 if bias is None else _per_channel(bias, input))
        if options.activation == ACTIVATIONS["tanh"]:
            slope = 1 - z.tanh().square()
        else:
            slope = torch.where(z <= 0, 0.0, torch.ones_like(z))
    return Terms(normalized, invstd, scale, slope, count)


def gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for input, weight and bias, differentiable in their turn."""
    t = terms(input, weight, bias, statistics, options)
    grad = grad_output.to(t.normalized.dtype) * t.slope
    grad_bias, grad_weight = _sum(grad), _sum(grad * t.normalized)
    grad_input = grad
    if statistics is None:
        feedback = t.normalized * grad_weight / (t.elements - options.correction)
        grad_input = grad - grad_bias / t.elements - feedback
    grad_input = grad_input * (t.invstd * t.scale)
    return grad_input.to(input.dtype), grad_weight.view(-1), grad_bias.view(-1)


def tangent(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor | None,
    options: Options,
    input_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
) -> Tensor:
    """The tangent of the output, from those of input, weight and bias."""
    t = terms(input, weight, bias, statistics, options)
    result = torch.zeros_like(t.normalized)
    if input_tangent is not None:
        dx = input_tangent.to(result.dtype)
        if statistics is None:
            dx = dx - _sum(dx) / t.elements
            dx = dx - t.normalized * _sum(dx * t.normalized) / (t.elements - options.correction)
        result = dx * (t.invstd * t.scale)
    if weight_tangent is not None:
        result = result + t.normalized * _per_channel(weight_tangent, input)
    if bias_tangent is not None:
        result = result + _per_channel(bias_tangent, input)
    return (result * t.slope).to(input.dtype)
