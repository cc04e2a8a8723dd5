"""What torch's transforms need to know of cross entropy: shapes and batching."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

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


def _loop(operator: Any, size: int, in_dims: tuple, arguments: tuple) -> list[Any]:
    """Sample by sample, as an operator knows one weight alone."""

    def sample(index: int) -> list[Any]:
        return [
            value if dim is None else value.select(dim, index)
            for value, dim in zip(arguments, in_dims, strict=True)
        ]

    return [operator(*sample(index)) for index in range(size)]


def _any_weight(weights: Tensor, dim: int) -> Tensor:
    """One weight for a batch of none, of which no row has need."""
    return weights.new_ones(weights.movedim(dim, 0).shape[1:])


def _row_weight(target: Tensor, weight: Tensor | None, classes: int, ignore_index: int) -> Tensor:
    """The weights of class indices [B, rows], 0 where one is ignored.

    `weight` is None, [C], or [B, C].
    """
    target = target.long()
    valid = target != ignore_index
    if weight is None:
        return valid.double()
    inside = (target >= 0) & (target < classes)  # what is not leaves NaN on a CUDA device
    index = torch.where(inside, target, 0)
    found = weight[index] if weight.dim() == 1 else weight.gather(1, index)
    return torch.where(valid, torch.where(inside, found.double(), torch.nan), 0)


def _is_factor(target: Tensor, label_smoothing: float) -> bool:
    """Whether a weight of each sample is no more than a factor of each row."""
    return not target.is_floating_point() and label_smoothing == 0


def _weighted(
    input: Tensor, target: Tensor, weights: Tensor, options: Options
) -> tuple[Tensor, Tensor]:
    """The losses of rows [B, ...] and their A, for weights [B, C] of the same logits."""
    t = Terms(input, target, None, options)
    over_classes = "bc,c->b" if input.dim() == 1 else "bc,nc...->bn..."
    losses = -torch.einsum(over_classes, weights, t.smoothed * t.log_p)
    return losses, torch.einsum(over_classes, weights, t.smoothed)


def _mean_divisor(total: Tensor) -> Tensor:
    """As in csrc/cpu/cross_entropy/block.h."""
    return torch.where(total == 0, torch.nan, total)


@torch.library.register_vmap("makemore_ext::cross_entropy_forward")
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
    is_shared = in_dims[0] is None and in_dims[1] is None  # each row is needed once
    of_operator: tuple[Any, ...] = (*options[1:], return_lse)
    if weight is not None and in_dims[2] is not None:
        if size == 0:
            weight = _any_weight(weight, in_dims[2])
        elif is_shared or _is_factor(target, label_smoothing):
            weights, weight = weight.movedim(in_dims[2], 0).double(), None
            of_operator = (ignore_index, 0.0, 0.0, return_lse or lse_square_scale != 0)
        else:
            arguments = (input, target, weight, reduction, *of_operator)
            samples = _loop(operator, size, (*in_dims[:3], *[None] * 5), arguments)
            *columns, lses = zip(*samples, strict=True)
            stacked = [torch.stack(column) for column in columns]
            if return_lse:
                return (*stacked, torch.stack(lses)), (0, 0, 0, 0)
            return (*stacked, lses[0]), (0, 0, 0, None)

    logits = batch_first(input, in_dims[0], size)
    vector = logits.dim() == 2
    rows = [size, *_row_shape(logits.shape[1:])]
    count = math.prod(rows[1:])
    if weights is not None and is_shared:
        losses, statistics, _, lse = operator(input, target, None, NONE, *of_operator)
        losses, statistics = losses.expand(rows), statistics.unsqueeze(1).expand(3, *rows)
        lse = lse.expand(rows) if of_operator[-1] else lse
    else:
        losses, statistics, _, lse = operator(
            _fold(input, in_dims[0], size, vector),
            _fold(target, in_dims[1], size, vector),
            weight,
            NONE,
            *of_operator,
        )
        losses, statistics = losses.reshape(rows), statistics.reshape(3, *rows)
        lse = lse.reshape(rows) if of_operator[-1] else lse
    if target.is_floating_point():
        valid = torch.ones((), dtype=torch.bool, device=input.device)
        total = torch.full((size,), count, dtype=torch.float64, device=input.device)
    else:
        targets = batch_first(target, in_dims[1], size).reshape(size, count)
        valid = (targets.long() != ignore_index).view(rows)
        classes = logits.shape[1 if vector else 2]
        factors = _row_weight(
            targets, weight if weights is None else weights, classes, ignore_index
        )
        total = factors.sum(1)
    if weights is not None:
        if _is_factor(target, label_smoothing):
            weighted, mass = factors.view(rows) * losses, factors.view(rows)
        else:
            weighted, mass = _weighted(input, target, weights, options)
        if lse_square_scale != 0:
            weighted = weighted + lse_square_scale * lse.double().square()
        losses = torch.where(valid, weighted, 0).to(losses.dtype)
        statistics = torch.stack([*statistics[:2], mass])
    if reduction != NONE:
        sums = losses.double().reshape(size, count).sum(1)
        losses = (sums / _mean_divisor(total) if reduction == MEAN else sums).to(losses.dtype)
    lse, lse_dim = (lse, 0) if return_lse else (lse.new_empty(0), None)
    return (losses, statistics, total, lse), (0, 1, 0, lse_dim)


@torch.library.register_vmap("makemore_ext::cross_entropy_backward")
def _(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Tensor, int]:
    operator = torch.ops.makemore_ext.cross_entropy_backward.default
    grad_output, grad_lse, input, target, weight, statistics, total, *rest = arguments
    options, size = Options(*rest), info.batch_size
    has_factors = False
    if weight is not None and in_dims[4] is not None:
        if size > 0 and _is_factor(target, options.label_smoothing):
            has_factors, weight = True, None
        elif size > 0:
            return torch.stack(_loop(operator, size, in_dims, arguments)), 0
        else:
            weight = _any_weight(weight, in_dims[4])

    logits = batch_first(input, in_dims[2], size)
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
        valid = batch_first(target, in_dims[3], size).long() != options.ignore_index
        on_lse = torch.where(valid, on_lse, 0).to(grad_output.dtype).reshape(rows_shape)
        lse_upstream = on_lse if lse_upstream is None else lse_upstream + on_lse
        upstream = upstream * factors
        moved = torch.stack([max_, sum_exp, torch.ones_like(factors)])
        options = options._replace(lse_square_scale=0.0)
    gradient = operator(
        upstream.to(grad_output.dtype).reshape(rows_shape),
        lse_upstream,
        _fold(input, in_dims[2], size, vector),
        _fold(target, in_dims[3], size, vector),
        weight,
        moved.expand(3, size, *rows).reshape(3, *rows_shape),
        torch.ones((), dtype=torch.float64, device=input.device),
        NONE,
        *options[1:],
    )
    return gradient.reshape(logits.shape), 0
