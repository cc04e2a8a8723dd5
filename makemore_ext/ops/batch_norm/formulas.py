"""Derivatives of batch norm that no operator computes, in torch operations.

They are the tangents and the derivatives of the gradient. All of it is in float64, since it cancels
where a mean is far from 0, and differentiable in its turn. Native autograd calls these functions
too. `options` are training, correction and activation.

With n elements in a channel, m = n - correction, s = invstd, y = activation(z) and otherwise the
names of csrc/cpu/batch_norm/batch_norm.cpp, let

  P(v) = v - sum v / n - xhat sum(v xhat) / m in training,  P(v) = v in evaluation

Then dx = weight s P(dz), dxhat = s P(dx) for a change dx of the input, and P is its own transpose.
s changes by ds = -s^2 / m sum(xhat dx) in training.
"""

from functools import partial, reduce
from typing import Any, NamedTuple

import torch
from torch import Tensor

from makemore_ext.ops.autograd import in_pieces, pieces
from makemore_ext.ops.batch_norm.options import ACTIVATIONS
from makemore_ext.ops.tensors import compute_dtype

Options = tuple[bool, float, int]


class _Terms(NamedTuple):
    """What the output is made of, each broadcast against the input."""

    xhat: Tensor
    s: Tensor
    weight: Tensor | float
    slope: Tensor | None  # dy / dz, where it is not 1
    elements: int  # n
    degrees: float  # m
    training: bool


def _per_channel(vector: Tensor, input: Tensor) -> Tensor:
    vector = vector.double().unsqueeze(0)
    for _ in range(input.dim() - 2):
        vector = vector.unsqueeze(-1)
    return vector


def _sum(tensor: Tensor) -> Tensor:
    return tensor.sum([dim for dim in range(tensor.dim()) if dim != 1], keepdim=True)


def _of_channels(sums: Tensor, dtype: torch.dtype) -> Tensor:
    """[1, C, 1, ...] as [C]."""
    return sums.squeeze([dim for dim in range(sums.dim()) if dim != 1]).to(dtype)


def _terms(
    input: Tensor,
    weight: Tensor | None,
    output: Tensor | None,
    statistics: Tensor,
    options: Options,
) -> _Terms:
    training, correction, activation = options
    x = input.double()
    elements = 1
    for dim, size in enumerate(x.shape):
        elements = elements if dim == 1 else elements * size
    if isinstance(elements, int) and elements == 0:  # nothing, whose sums are 0, not NaN
        elements, statistics = 2, torch.zeros_like(statistics)
    mean, variance, s = (_per_channel(row, input) for row in statistics.unbind())
    if training:
        # The values are those of the kernels, the derivatives those of functions of the input.
        centred = x - _sum(x) / elements
        change = _sum(centred.square()) / (elements - correction) - variance
        s = (s**-2 + change).rsqrt()
    else:
        centred = x - mean
    slope = None
    if activation == ACTIVATIONS["tanh"]:
        assert output is not None
        y = output.double()
        slope = (1 - y) * (1 + y)
    elif activation == ACTIVATIONS["relu"]:
        assert output is not None
        slope = torch.where(output <= 0, 0.0, torch.ones_like(output, dtype=torch.float64))
    scale = 1.0 if weight is None else _per_channel(weight, input)
    return _Terms(centred * s, s, scale, slope, elements, elements - correction, training)


def _project(vector: Tensor, t: _Terms) -> Tensor:
    """P."""
    if not t.training:
        return vector
    feedback = t.xhat * (_sum(vector * t.xhat) / t.degrees)
    return vector - _sum(vector) / t.elements - feedback


def _times_slope(tensor: Tensor, t: _Terms) -> Tensor:
    return tensor if t.slope is None else tensor * t.slope


def _slope_of_slope(output: Tensor | None, options: Options) -> Tensor | float:
    """The derivative of the slope by the output."""
    if options[2] != ACTIVATIONS["tanh"]:
        return 0.0
    assert output is not None
    return -2 * output.double()


def _tangent_of_z(
    input_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    t: _Terms,
) -> Tensor:
    """As it happens also the gradient of dz, from those of dx, dweight and dbias."""
    terms = []
    if input_tangent is not None:
        terms.append(t.weight * t.s * _project(input_tangent.double(), t))
    if weight_tangent is not None:
        terms.append(t.xhat * _per_channel(weight_tangent, t.xhat))
    if bias_tangent is not None:
        terms.append(_per_channel(bias_tangent, t.xhat).expand_as(t.xhat))
    return reduce(torch.add, terms) if terms else torch.zeros_like(t.xhat)


def tangent(
    input: Tensor,
    weight: Tensor | None,
    output: Tensor | None,
    statistics: Tensor,
    input_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    bias_tangent: Tensor | None,
    options: Options,
) -> Tensor:
    """The tangent of the output; `output` is None without activation."""
    t = _terms(input, weight, output, statistics, options)
    z = _tangent_of_z(input_tangent, weight_tangent, bias_tangent, t)
    return _times_slope(z, t).to(input.dtype)


def second_gradients(
    grad_grad_input: Tensor | None,
    grad_grad_weight: Tensor | None,
    grad_grad_bias: Tensor | None,
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    output: Tensor | None,
    statistics: Tensor,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """From the gradients of grad_input, ... those of grad_output, input, weight and output.

    That of `output` is how bias and activation come in.
    """
    cuts = pieces(input, 1)
    if len(cuts) > 1:  # channels have nothing to do with one another
        grads = grad_grad_input, grad_grad_weight, grad_grad_bias
        tensors = *grads, grad_output, input, weight, output, statistics
        formula = partial(second_gradients, options=options)
        result: Any = in_pieces(formula, cuts, tensors, (1, 0, 0, 1, 1, 0, 1, 1), (1, 1, 0, 1))
        return tuple(result)
    t = _terms(input, weight, output, statistics, options)
    dy = grad_output.double()
    dz = _times_slope(dy, t)
    for_dz = _tangent_of_z(grad_grad_input, grad_grad_weight, grad_grad_bias, t)
    for_xhat = []
    for_s = torch.zeros_like(t.s)  # but for the factor weight
    if grad_grad_weight is not None:
        for_xhat.append(dz * _per_channel(grad_grad_weight, t.xhat))
    if grad_grad_input is not None:
        grad = grad_grad_input.double()
        for_s = _sum(grad * _project(dz, t))
        if t.training:
            scale = -t.weight * t.s / t.degrees
            for_xhat.append(scale * _sum(dz * t.xhat) * grad)
            for_xhat.append(scale * _sum(grad * t.xhat) * dz)
    for_input = torch.zeros_like(t.xhat)
    if for_xhat:
        for_input = t.s * _project(reduce(torch.add, for_xhat), t)
    if t.training:
        for_input = for_input - (t.weight * for_s * t.s.square() / t.degrees) * t.xhat
    for_weight = for_output = None
    if weight is not None:
        for_weight = _of_channels(t.s * for_s, weight.dtype)
    if output is not None:
        for_output = (dy * _slope_of_slope(output, options) * for_dz).to(output.dtype)
    for_grad_output = _times_slope(for_dz, t).to(grad_output.dtype)
    return for_grad_output, for_input.to(input.dtype), for_weight, for_output


def second_tangents(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    output: Tensor | None,
    statistics: Tensor,
    grad_output_tangent: Tensor | None,
    input_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    output_tangent: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor, Tensor]:
    """The tangents of grad_input, grad_weight and grad_bias."""
    t = _terms(input, weight, output, statistics, options)
    dy = grad_output.double()
    dz = _times_slope(dy, t)
    dz_tangent = torch.zeros_like(t.xhat)
    if grad_output_tangent is not None:
        dz_tangent = _times_slope(grad_output_tangent.double(), t)
    if output_tangent is not None:
        slope_tangent = _slope_of_slope(output, options) * output_tangent.double()
        dz_tangent = dz_tangent + dy * slope_tangent
    projected = _project(dz, t)
    grad_bias, grad_weight = _sum(dz_tangent), _sum(dz_tangent * t.xhat)
    grad_input = t.weight * t.s * _project(dz_tangent, t)
    if weight_tangent is not None:
        grad_input = grad_input + _per_channel(weight_tangent, input) * t.s * projected
    if input_tangent is not None:
        x = input_tangent.double()
        xhat = t.s * _project(x, t)
        on_xhat = _sum(dz * xhat)
        grad_weight = grad_weight + on_xhat
        if t.training:
            s = -t.s.square() / t.degrees * _sum(t.xhat * x)
            fed_back = (xhat * _sum(dz * t.xhat) + t.xhat * on_xhat) / t.degrees
            grad_input = grad_input + t.weight * (s * projected - t.s * fed_back)
    dtype = compute_dtype(input) if weight is None else weight.dtype
    return (
        grad_input.to(input.dtype),
        _of_channels(grad_weight, dtype),
        _of_channels(grad_bias, dtype),
    )
