"""Derivatives of cross entropy that no operator computes, in torch operations.

Names and formulas are those of csrc/cpu/cross_entropy/cross_entropy.cpp: tangents, gradients of
target probabilities and of the weights, and the derivatives of the gradient. All of it is in
float64, since it cancels (1 - p of a confident row), and differentiable in its turn. Native
autograd calls these functions too. `options` are those of options.py.
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from makemore_ext.ops.autograd import in_pieces, pieces
from makemore_ext.ops.cross_entropy.options import MEAN, NONE, Options, class_dim
from makemore_ext.ops.cross_entropy.terms import (
    Terms,
    along_classes,
    over_rows,
    reduced,
    upstream_of_rows,
)
from makemore_ext.ops.tensors import compute_dtype


def _share_tangent(
    target: Tensor,
    target_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    t: Terms,
) -> Tensor | None:
    """The tangent of v."""
    if not target.is_floating_point() and weight_tangent is not None:
        raise RuntimeError(
            "weight must have no tangent where target holds class indices, as it has no gradient"
        )
    result = None
    if target_tangent is not None:
        result = t.weight * ((1 - t.options.label_smoothing) * target_tangent.double())
    if weight_tangent is not None:
        other = along_classes(weight_tangent, t.log_p) * t.smoothed
        result = other if result is None else result + other
    return result


def _times_log_p(factor: Tensor, t: Terms) -> Tensor:
    """The product, 0 where a class that is ruled out has no part."""
    ruled_out = (factor == 0) & (t.log_p == -torch.inf)
    return factor * torch.where(ruled_out, 0, t.log_p)


def _mean(vector: Tensor, t: Terms) -> Tensor:
    """Of the vector's elements under softmax: sum_c p_c vector_c."""
    return (vector * t.p).sum(t.dim, keepdim=True)


def _curvature(
    vector: Tensor, mean: Tensor, upstream: Tensor, grad_lse: Tensor | None, t: Terms
) -> Tensor:
    """The matrix of second derivatives by the logits, which is symmetric, times a vector.

    `mean` is `_mean` of the vector.
    """
    on_softmax = upstream * t.on_lse
    if grad_lse is not None:
        on_softmax = on_softmax + grad_lse.double().unsqueeze(t.dim)
    change = on_softmax * (vector - mean)
    if t.options.lse_square_scale != 0:
        change = change + 2 * t.options.lse_square_scale * upstream * mean
    return t.p * change


def gradients_of_target(
    grad_loss: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    statistics: Tensor | None,
    options: Options,
) -> tuple[Tensor | None, Tensor | None]:
    """The gradients for target probabilities and weight; None for class indices.

    `statistics`: of the forward pass, where nothing differentiates the result or looks at it while
    it is formed. They spare the sums over classes.
    """
    if not target.is_floating_point():
        return None, None
    if statistics is not None and input.is_cpu:
        return _gradients_from_statistics(grad_loss, input, target, weight, statistics, options)
    t = Terms(input, target, weight, options)
    upstream = upstream_of_rows(grad_loss, t)
    grad_target = _times_log_p(-upstream * t.weight * (1 - t.options.label_smoothing), t).to(
        target.dtype
    )
    if weight is None:
        return grad_target, None
    return grad_target, over_rows(_times_log_p(-upstream * t.smoothed, t), t).to(weight.dtype)


def _gradients_from_statistics(
    grad_loss: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    statistics: Tensor,
    options: Options,
) -> tuple[Tensor, Tensor | None]:
    """In the dtype that is computed in, and few passes.

    log_p = (x - max) - log_sum does not cancel: neither part is positive.
    """
    dim, dtype = class_dim(input), compute_dtype(input)
    largest, sum_exp, _ = statistics.unsqueeze(dim + 1).unbind()
    upstream = -grad_loss.double()
    if options[0] == MEAN:
        upstream = upstream / sum_exp.numel()
    if options[0] == NONE:
        upstream = upstream.unsqueeze(dim)
    log_p = input.to(dtype) - largest.to(dtype)
    log_p -= sum_exp.log().to(dtype)
    per_row = (upstream * (1 - options[2])).to(dtype)
    per_class = largest.new_ones(1) if weight is None else along_classes(weight, input)
    grad_weight = per_class
    if weight is not None:
        terms = target.to(dtype) * (1 - options[2])
        terms += options[2] / input.shape[dim]
        terms *= upstream.to(dtype)
        ruled_out = (terms == 0) & (log_p == -torch.inf)
        terms *= log_p
        rows = [other for other in range(input.dim()) if other != dim]
        terms.masked_fill_(ruled_out, 0)
        grad_weight = terms.sum(rows, dtype=torch.float64) if rows else terms
    if not (per_row.all() and per_class.all()):  # see _times_log_p
        log_p.masked_fill_((per_row * per_class == 0) & (log_p == -torch.inf), 0)
    log_p *= per_row
    if weight is None:
        return log_p.to(target.dtype), None
    log_p *= per_class.to(dtype)
    return log_p.to(target.dtype), grad_weight.to(weight.dtype)


def tangents(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    input_tangent: Tensor | None,
    target_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """The tangents of loss and lse."""
    t = Terms(input, target, weight, options)
    rows = lse = torch.zeros_like(t.lse)
    if input_tangent is not None:
        tangent = input_tangent.double()
        lse = _mean(tangent, t)
        rows = t.on_lse * lse - t.shared(tangent)
    share_tangent = _share_tangent(target, target_tangent, weight_tangent, t)
    if share_tangent is not None:
        rows = rows - _times_log_p(share_tangent, t).sum(t.dim, keepdim=True)
    dtype = compute_dtype(input)
    return reduced(rows, t).to(dtype), lse.squeeze(t.dim).to(dtype)


def second_gradients(
    grad_grad_input: Tensor,
    grad_loss: Tensor | None,
    grad_lse: Tensor | None,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
) -> tuple[Tensor | None, Tensor | None, Tensor, Tensor | None, Tensor | None]:
    """From the gradient of grad_input those of grad_loss, grad_lse, input, target and weight."""
    if input.dim() > 1:
        dim = max((dim for dim in range(input.dim()) if dim != 1), key=input.size)
        cuts = pieces(input, dim)
        if len(cuts) > 1:
            tensors = grad_grad_input, grad_loss, grad_lse, input, target, weight
            return _second_gradients_in_pieces(tensors, options, dim, cuts)
    t = Terms(input, target, weight, options)
    grad = grad_grad_input.double()
    mean = _mean(grad, t)
    for_loss = for_lse = for_target = for_weight = None
    upstream = upstream_of_rows(grad_loss, t)
    if grad_loss is not None:
        for_loss = reduced(t.on_lse * mean - t.shared(grad), t).to(grad_loss.dtype)
    if grad_lse is not None:
        for_lse = mean.squeeze(t.dim).to(grad_lse.dtype)
    for_input = _curvature(grad, mean, upstream, grad_lse, t).to(input.dtype)
    if target.is_floating_point():
        for_share = upstream * (mean - grad)
        for_target = t.weight * (1 - t.options.label_smoothing) * for_share
        for_target = for_target.to(target.dtype)
        if weight is not None:
            for_weight = over_rows(for_share * t.smoothed, t).to(weight.dtype)
    return for_loss, for_lse, for_input, for_target, for_weight


def _second_gradients_in_pieces(
    tensors: tuple[Any, ...], options: Options, dim: int, cuts: list[tuple[int, int]]
) -> Any:
    """`second_gradients` of some rows at a time, with a loss of each; `tensors` are its own."""
    grad_grad_input, grad_loss, grad_lse, input, target, weight = tensors
    t = Terms(input, target, weight, options)
    upstream = None if grad_loss is None else upstream_of_rows(grad_loss, t).squeeze(1)
    formula = partial(second_gradients, options=t.options._replace(reduction=NONE))
    row_dim = max(0, dim - 1)  # where there are no classes
    target_dim = dim if target.dim() == input.dim() else row_dim
    exact_weight = None if weight is None else weight.double()
    rows, for_lse, for_input, for_target, for_weight = in_pieces(
        formula,
        cuts,
        (grad_grad_input, upstream, grad_lse, input, target, exact_weight),
        (dim, row_dim, row_dim, dim, target_dim, None),
        (row_dim, row_dim, dim, target_dim, None),
    )
    for_loss = None
    if rows is not None:
        for_loss = reduced(rows.unsqueeze(1), t).to(grad_loss.dtype)
    if for_weight is not None:
        for_weight = for_weight.to(weight.dtype)
    return for_loss, for_lse, for_input, for_target, for_weight


def second_tangent(
    grad_loss: Tensor | None,
    grad_lse: Tensor | None,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    grad_loss_tangent: Tensor | None,
    grad_lse_tangent: Tensor | None,
    input_tangent: Tensor | None,
    target_tangent: Tensor | None,
    weight_tangent: Tensor | None,
    options: Options,
) -> Tensor:
    """The tangent of grad_input."""
    t = Terms(input, target, weight, options)
    upstream = upstream_of_rows(grad_loss, t)
    result = torch.zeros_like(t.p)
    if grad_loss_tangent is not None:
        result = upstream_of_rows(grad_loss_tangent, t) * (t.on_lse * t.p - t.share)
    if grad_lse_tangent is not None:
        result = result + grad_lse_tangent.double().unsqueeze(t.dim) * t.p
    if input_tangent is not None:
        tangent = input_tangent.double()
        result = result + _curvature(tangent, _mean(tangent, t), upstream, grad_lse, t)
    share_tangent = _share_tangent(target, target_tangent, weight_tangent, t)
    if share_tangent is not None:
        mass_tangent = share_tangent.sum(t.dim, keepdim=True)
        result = result + upstream * (mass_tangent * t.p - share_tangent)
    return result.to(input.dtype)
