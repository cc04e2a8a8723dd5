"""The formulas of csrc/cpu/cross_entropy/cross_entropy.cpp in torch operations.

They serve what the kernels do not compute: gradients of the gradient, tangents, and the gradients
of target probabilities and of the weights.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from makemore_ext.ops.cross_entropy.options import MEAN, Options, class_dim
from makemore_ext.ops.tensors import compute_dtype


class Terms(NamedTuple):
    """What the loss is made of, each broadcast against the logits; see cross_entropy.cpp."""

    log_p: Tensor
    lse: Tensor
    weight: Tensor  # w
    smoothed: Tensor  # q'
    valid: Tensor  # whether a row takes part
    divisor: Tensor  # of the mean


def terms(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Terms:
    """The terms of every row, of those that take no part too."""
    dim = class_dim(input)
    logits = input.to(compute_dtype(input))
    lse = logits.logsumexp(dim, keepdim=True)
    if weight is None:
        weight = torch.ones_like(lse)
    else:
        weight = weight.view(*([1] * dim), -1, *([1] * (logits.dim() - dim - 1)))
    if target.is_floating_point():
        probabilities = target.to(logits.dtype)
        valid = torch.ones_like(lse, dtype=torch.bool)
        divisor = torch.full((), valid.numel(), dtype=logits.dtype, device=input.device)
    else:
        valid = (target != options.ignore_index).unsqueeze(dim)
        index = torch.where(valid, target.long().unsqueeze(dim), 0)
        probabilities = torch.zeros_like(logits).scatter(dim, index, 1)
        row_weight = weight.expand_as(logits).gather(dim, index)
        divisor = torch.where(valid, row_weight, 0).sum()
    smoothing = options.label_smoothing
    smoothed = (1 - smoothing) * probabilities + smoothing / max(1, logits.shape[dim])
    return Terms(logits - lse, lse, weight, smoothed, valid, divisor)


def _rows_upstream(grad_loss: Tensor, t: Terms, input: Tensor, options: Options) -> Tensor:
    if options.reduction == MEAN:
        grad_loss = grad_loss / t.divisor
    if options.reduction == 0:
        grad_loss = grad_loss.unsqueeze(class_dim(input))
    return torch.where(t.valid, grad_loss, 0)


def gradients(
    grad_loss: Tensor | None,
    grad_lse: Tensor | None,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor | None, Tensor | None]:
    """The gradients for input, target probabilities and weight, differentiable in their turn."""
    dim = class_dim(input)
    t = terms(input, target, weight, options)
    p = t.log_p.exp()
    share = t.weight * t.smoothed
    grad_input = torch.zeros_like(p)
    grad_target = grad_weight = None
    if grad_loss is not None:
        upstream = _rows_upstream(grad_loss, t, input, options)
        on_softmax = share.sum(dim, keepdim=True) + 2 * options.lse_square_scale * t.lse
        grad_input = upstream * (on_softmax * p - share)
        if target.is_floating_point():
            on_target = -upstream * t.log_p
            grad_target = (on_target * t.weight * (1 - options.label_smoothing)).to(target.dtype)
            if weight is not None:
                rows = [d for d in range(input.dim()) if d != dim]
                on_weight = on_target * t.smoothed
                grad_weight = (on_weight.sum(rows) if rows else on_weight).to(weight.dtype)
    if grad_lse is not None:
        grad_input = grad_input + grad_lse.unsqueeze(dim) * p
    return grad_input.to(input.dtype), grad_target, grad_weight


def tangents(
    primals: Sequence[Tensor | None], tangents: Sequence[Tensor | None], options: Options
) -> tuple[Tensor, Tensor]:
    """The tangents of loss and lse, from those of input, target and weight."""
    input, target, weight = primals
    input_tangent, target_tangent, weight_tangent = tangents
    assert input is not None
    assert target is not None
    dim = class_dim(input)
    t = terms(input, target, weight, options)
    loss = torch.zeros_like(t.log_p)
    lse = torch.zeros_like(t.lse)
    share = t.weight * t.smoothed
    if input_tangent is not None:
        tangent = input_tangent.to(loss.dtype)
        lse = (t.log_p.exp() * tangent).sum(dim, keepdim=True)
        loss = share * (lse - tangent)
    if target_tangent is not None:
        on_target = (1 - options.label_smoothing) * target_tangent.to(loss.dtype)
        loss = loss - t.weight * on_target * t.log_p
    if weight_tangent is not None:
        loss = loss - weight_tangent.view(t.weight.shape) * t.smoothed * t.log_p
    rows = loss.sum(dim, keepdim=True) + 2 * options.lse_square_scale * t.lse * lse
    rows = torch.where(t.valid, rows, 0).squeeze(dim)
    if options.reduction != 0:
        rows = rows.sum() / t.divisor if options.reduction == MEAN else rows.sum()
    return rows, lse.squeeze(dim)
