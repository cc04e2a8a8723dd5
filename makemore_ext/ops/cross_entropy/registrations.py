"""What torch's transforms need to know of cross entropy: shapes and batching."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from makemore_ext.ops.batching import register_vmap
from makemore_ext.ops.cross_entropy.options import MEAN, NONE, Options
from makemore_ext.ops.cross_entropy.terms import Terms
from makemore_ext.ops.tensors import batch_first, compute_dtype

# ---- shapes, for torch.compile and export ----


def _row_shape(shape: Sequence[int]) -> list[int]:
    """The shape of what there is one of for each row of logits of this shape."""
    return [shape[0], *shape[2:]] if len(shape) > 1 else []


def _fake_loss(input: Tensor, reduction: int) -> Tensor:
    shape = _row_shape(input.shape) if reduction == NONE else []
    return input.new_empty(shape, dtype=compute_dtype(input))


@torch.library.register_fake("makemore_ext::cross_entropy_forward")
def _(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    lse_square_scale: float,
    return_lse: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    statistics = input.new_empty([3, *_row_shape(input.shape)], dtype=torch.float64)
    total_weight = input.new_empty((), dtype=torch.float64)
    lse = input.new_empty(
        _row_shape(input.shape) if return_lse else [0], dtype=compute_dtype(input)
    )
    return _fake_loss(input, reduction), statistics, total_weight, lse


@torch.library.register_fake("makemore_ext::cross_entropy_forward_with_gradient")
def _(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: int, *_: Any
) -> tuple[Tensor, Tensor]:
    return _fake_loss(input, reduction), torch.empty_like(input)


@torch.library.register_fake("makemore_ext::cross_entropy_backward")
def _(grad_output: Tensor, grad_lse: Tensor | None, input: Tensor, *_: Any) -> Tensor:
    return torch.empty_like(input)


@torch.library.register_fake("makemore_ext::cross_entropy_backward_")
def _(grad_output: Tensor, grad_lse: Tensor | None, input: Tensor, *_: Any) -> None:
    return None


@torch.library.register_fake("makemore_ext::cross_entropy_scale_")
def _(gradient: Tensor, factor: Tensor, target: Tensor, ignore_index: int) -> None:
    return None


# ---- batching, for torch.func.vmap: the batch becomes more rows ----


def _fold(tensor: Tensor, dim: int | None, size: int, vector: bool) -> Tensor:
    """[B, N, ...] as [B N, ...], or [B, ...] where a sample is one row without dimension N."""
    batch = batch_first(tensor, dim, size)
    return batch if vector else batch.flatten(0, 1)


def _any_weight(weights: Tensor, dim: int) -> Tensor:
    """One weight for a batch of none, of which no row has need."""
    return weights.new_ones(weights.movedim(dim, 0).shape[1:])


def _row_weight(target: Tensor, weight: Tensor | None, classes: int, valid: Tensor) -> Tensor:
    """The weights of class indices [B, rows], 0 where one is not `valid`.

    `weight` is None, [C], or [B, C]. Where an index can be outside, it leaves NaN: kernels of the
    CPU have refused it.
    """
    if weight is None:
        return valid.double()
    inside = valid
    if not target.is_cpu:
        inside = valid & (target >= 0) & (target < classes)
    index = torch.where(inside, target.long(), 0)
    found = weight[index] if weight.dim() == 1 else weight.gather(1, index)
    if not target.is_cpu:
        found = torch.where(inside, found, torch.nan)
    return torch.where(valid, found.double(), 0)


def _is_factor(target: Tensor, label_smoothing: float) -> bool:
    """Whether a weight of each sample is no more than a factor of each row."""
    return not target.is_floating_point() and label_smoothing == 0


def _over_classes(weights: Tensor, terms: Tensor, vector: bool, is_shared: bool) -> Tensor:
    """[B, N, ...], sums of weights [B, C] times terms [B, N, C, ...], or [N, C, ...] of all."""
    of_sample = "c" if vector else "nc..."
    rows = "b" if vector else "bn..."
    return torch.einsum(f"bc,{'' if is_shared else 'b'}{of_sample}->{rows}", weights, terms)


def _shares(logits: Tensor, target: Tensor, weights: Tensor, options: Options) -> Tensor:
    """Those of weights [B, C], v [B, N, C, ...]. As target probabilities they need no weight."""
    dtype, dim = compute_dtype(logits), 1 if logits.dim() == 2 else 2
    per_class = [1] * logits.dim()
    per_class[0], per_class[dim] = weights.shape
    if not target.is_floating_point():
        classes = torch.arange(weights.shape[1], device=target.device)
        target = classes.view(1, *per_class[1:]) == target.unsqueeze(dim)
    smoothed = target.to(dtype) * (1 - options.label_smoothing)
    smoothed += options.label_smoothing / weights.shape[1]
    return weights.view(per_class).to(dtype) * smoothed


def _mean_divisor(total: Tensor) -> Tensor:
    """As in csrc/cpu/cross_entropy/block.h."""
    return torch.where(total == 0, torch.nan, total)


@register_vmap("cross_entropy_forward")
def _(
    info: Any,
    in_dims: tuple,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
    lse_square_scale: float,
    return_lse: bool = False,
) -> tuple[tuple, tuple]:
    operator = torch.ops.makemore_ext.cross_entropy_forward.default
    options = Options(reduction, ignore_index, label_smoothing, lse_square_scale)
    size, weights = info.batch_size, None
    of_operator: tuple[Any, ...] = (*options[1:], return_lse)
    if weight is not None and in_dims[2] is not None:
        if size == 0:
            weight = _any_weight(weight, in_dims[2])
        else:
            weights, weight = weight.movedim(in_dims[2], 0).double(), None
            of_operator = (ignore_index, 0.0, 0.0, return_lse or lse_square_scale != 0)

    logits = batch_first(input, in_dims[0], size)
    vector = logits.dim() == 2
    rows = [size, *_row_shape(logits.shape[1:])]
    count = math.prod(rows[1:])
    # With a weight of each sample alone, each row is needed once.
    is_shared = weights is not None and in_dims[0] is None and in_dims[1] is None
    x, t = input, target
    if not is_shared:
        x = _fold(input, in_dims[0], size, vector)
        t = _fold(target, in_dims[1], size, vector)
    losses, statistics, _, lse = operator(x, t, weight, NONE, *of_operator)
    if is_shared:
        losses, statistics = losses.expand(rows), statistics.unsqueeze(1).expand(3, *rows)
        lse = lse.expand(rows) if of_operator[-1] else lse
    else:
        losses, statistics = losses.reshape(rows), statistics.reshape(3, *rows)
        lse = lse.reshape(rows) if of_operator[-1] else lse
    if target.is_floating_point():
        valid = torch.ones((), dtype=torch.bool, device=input.device)
        total = torch.full((size,), count, dtype=torch.float64, device=input.device)
    else:
        targets = batch_first(target, in_dims[1], size).reshape(size, count)
        valid = targets.long() != ignore_index
        classes = logits.shape[1 if vector else 2]
        factors = _row_weight(targets, weight if weights is None else weights, classes, valid)
        total = factors.sum(1)
        valid = valid.view(rows)
    dtype = losses.dtype
    if weights is not None:
        has_factors = _is_factor(target, label_smoothing)
        if has_factors:
            mass = factors.view(rows)
            losses = mass * losses
        else:
            terms = Terms(x, t, None, options)
            shares, log_p = terms.smoothed, terms.smoothed * terms.log_p
            if not is_shared:
                shares, log_p = shares.reshape(logits.shape), log_p.reshape(logits.shape)
            losses = -_over_classes(weights, log_p, vector, is_shared)
            mass = _over_classes(weights, shares, vector, is_shared)
        if lse_square_scale != 0:
            losses = losses + lse_square_scale * lse.double().square()
        if lse_square_scale != 0 or not has_factors:
            losses = torch.where(valid, losses, 0)
        statistics = torch.stack([*statistics[:2], mass])
    if reduction != NONE:
        losses = losses.reshape(size, count).sum(1, dtype=torch.float64)
    if reduction == MEAN:
        losses = losses / _mean_divisor(total)
    losses = losses.to(dtype)
    lse, lse_dim = (lse, 0) if return_lse else (lse.new_empty(0), None)
    return (losses, statistics, total, lse), (0, 1, 0, lse_dim)


@register_vmap("cross_entropy_backward")
def _(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Tensor, int]:
    operator = torch.ops.makemore_ext.cross_entropy_backward.default
    grad_output, grad_lse, input, target, weight, statistics, total, *rest = arguments
    options, size = Options(*rest), info.batch_size
    weights = None
    if weight is not None and in_dims[4] is not None:
        if size == 0:
            weight = _any_weight(weight, in_dims[4])
        else:
            weights, weight = weight.movedim(in_dims[4], 0), None
    has_factors = weights is not None and _is_factor(target, options.label_smoothing)

    logits, targets = batch_first(input, in_dims[2], size), batch_first(target, in_dims[3], size)
    vector = logits.dim() == 2
    rows = _row_shape(logits.shape[1:])
    upstream = batch_first(grad_output, in_dims[0], size)
    if options.reduction != NONE:
        if options.reduction == MEAN:
            upstream = upstream / _mean_divisor(batch_first(total, in_dims[6], size))
        upstream = upstream.reshape(size, *([1] * len(rows))).expand(size, *rows)
    rows_shape = [size] if vector else [size * rows[0], *rows[1:]]
    lse_upstream = None
    if grad_lse is not None:
        lse_upstream = batch_first(grad_lse, in_dims[1], size).reshape(rows_shape)
    moved = statistics.unsqueeze(1) if in_dims[5] is None else statistics.movedim(in_dims[5], 1)
    if has_factors:
        max_, sum_exp, factors = moved.expand(3, size, *rows).unbind()
        on_lse = 2 * options.lse_square_scale * upstream * (max_ + sum_exp.log())
        valid = targets.long() != options.ignore_index
        on_lse = torch.where(valid, on_lse, 0).to(grad_output.dtype).reshape(rows_shape)
        lse_upstream = on_lse if lse_upstream is None else lse_upstream + on_lse
        upstream = upstream * factors
        moved = torch.stack([max_, sum_exp, torch.ones_like(factors)])
        options = options._replace(lse_square_scale=0.0)
    elif weights is not None:
        if not target.is_floating_point():
            upstream = torch.where(targets.long() != options.ignore_index, upstream, 0)
        targets = _shares(logits, targets, weights, options)
        input = input.to(targets.dtype)
        options = options._replace(label_smoothing=0.0)
    gradient = operator(
        upstream.to(grad_output.dtype).reshape(rows_shape),
        lse_upstream,
        _fold(input, in_dims[2], size, vector),
        _fold(targets, 0, size, vector),
        weight,
        moved.expand(3, size, *rows).reshape(3, *rows_shape),
        torch.ones((), dtype=torch.float64, device=input.device),
        NONE,
        *options[1:],
    )
    return gradient.reshape(logits.shape).to(logits.dtype), 0
