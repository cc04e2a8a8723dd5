"""What torch's transforms need to know of cross entropy: shapes, batching, second derivatives.

The formulas are those of csrc/cpu/cross_entropy/cross_entropy.h, in torch operations. They serve
what the kernels do not compute: gradients of the gradient, tangents, and the gradients of target
probabilities and of the weights.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

MEAN = 1  # of torch's numbering, in which 0 is none and 2 is sum


class Options(NamedTuple):
    """The arguments of the operators that are not tensors, in their order."""

    reduction: int
    ignore_index: int
    label_smoothing: float
    lse_square_scale: float


class Terms(NamedTuple):
    """What the loss is made of, each broadcast against the logits; see cross_entropy.h."""

    log_p: Tensor
    lse: Tensor
    weight: Tensor  # w
    smoothed: Tensor  # q'
    valid: Tensor  # whether a row takes part
    divisor: Tensor  # of the mean


def class_dim(input: Tensor) -> int:
    return 0 if input.dim() == 1 else 1


def compute_dtype(input: Tensor) -> torch.dtype:
    """What losses are computed and reduced in: float32, or float64 for float64."""
    return torch.float64 if input.dtype == torch.float64 else torch.float32


def terms(input: Tensor, target: Tensor, weight: Tensor | None, options: Options) -> Terms:
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


# ---- shapes, for torch.compile and export ----


def _row_shape(input: Tensor) -> list[int]:
    shape = list(input.shape)
    del shape[class_dim(input)]
    return shape


def _fake_loss(input: Tensor, reduction: int) -> Tensor:
    shape = _row_shape(input) if reduction == 0 else []
    return input.new_empty(shape, dtype=compute_dtype(input))


@torch.library.register_fake("makemore_ext::cross_entropy_forward")
def _(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: int, *_: Any
) -> tuple[Tensor, Tensor, Tensor]:
    statistics = input.new_empty([3, *_row_shape(input)], dtype=torch.float64)
    total_weight = input.new_empty((), dtype=torch.float64)
    return _fake_loss(input, reduction), statistics, total_weight


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
def _(gradient: Tensor, factor: Tensor) -> None:
    return None


# ---- batching, for torch.func.vmap: the batch becomes more rows ----


def _batch_first(tensor: Tensor, dim: int | None, size: int) -> Tensor:
    return tensor.expand(size, *tensor.shape) if dim is None else tensor.movedim(dim, 0)


def _fold(tensor: Tensor, dim: int | None, size: int, vector: bool) -> Tensor:
    """[B, N, ...] as [B N, ...], or [B, ...] where a sample is one row without dimension N."""
    batch = _batch_first(tensor, dim, size)
    return batch if vector else batch.reshape(-1, *batch.shape[2:])


def _loop(operator: Any, size: int, in_dims: tuple, arguments: tuple) -> list[Any]:
    def sample(index: int) -> list[Any]:
        return [
            value if dim is None else value.select(dim, index)
            for value, dim in zip(arguments, in_dims, strict=True)
        ]

    return [operator(*sample(index)) for index in range(size)]


@torch.library.register_vmap("makemore_ext::cross_entropy_forward")
def _(info: Any, in_dims: tuple, *arguments: Any) -> tuple[tuple, tuple]:
    operator = torch.ops.makemore_ext.cross_entropy_forward.default
    input, target, weight, *rest = arguments
    options, size = Options(*rest), info.batch_size
    if in_dims[2] is not None:
        results = _loop(operator, size, in_dims, arguments)
        return tuple(torch.stack(column) for column in zip(*results, strict=True)), (0, 0, 0)

    logits = _batch_first(input, in_dims[0], size)
    vector = logits.dim() == 2
    folded_target = _fold(target, in_dims[1], size, vector)
    folded = operator(
        _fold(input, in_dims[0], size, vector), folded_target, weight, 0, *options[1:]
    )
    rows = _row_shape(logits[0])
    losses = folded[0].view(size, *rows)
    statistics = folded[1].view(3, size, *rows)
    if target.is_floating_point():
        total = torch.full((size,), losses[0].numel(), dtype=torch.float64, device=input.device)
    else:
        valid = folded_target != options.ignore_index
        index = torch.where(valid, folded_target, 0).long()
        row_weight = valid.double() if weight is None else torch.where(valid, weight[index], 0)
        total = row_weight.double().view(size, -1).sum(1)
    if options.reduction != 0:
        sums = losses.double().view(size, -1).sum(1)
        losses = (sums / total if options.reduction == MEAN else sums).to(losses.dtype)
    return (losses, statistics, total), (0, 1, 0)


@torch.library.register_vmap("makemore_ext::cross_entropy_backward")
def _(info: Any, in_dims: tuple, *arguments: Any) -> tuple[Tensor, int]:
    operator = torch.ops.makemore_ext.cross_entropy_backward.default
    grad_output, grad_lse, input, target, weight, statistics, total, *rest = arguments
    options, size = Options(*rest), info.batch_size
    if in_dims[4] is not None:
        return torch.stack(_loop(operator, size, in_dims, arguments)), 0

    logits = _batch_first(input, in_dims[2], size)
    vector = logits.dim() == 2
    rows = _row_shape(logits[0])
    upstream = _batch_first(grad_output, in_dims[0], size)
    if options.reduction != 0:
        if options.reduction == MEAN:
            upstream = upstream / _batch_first(total, in_dims[6], size)
        upstream = upstream.view(size, *([1] * len(rows))).expand(size, *rows)
    rows_shape = [size] if vector else [size * rows[0], *rows[1:]]
    lse_upstream = None
    if grad_lse is not None:
        lse_upstream = _batch_first(grad_lse, in_dims[1], size).reshape(rows_shape)
    moved = statistics.unsqueeze(1) if in_dims[5] is None else statistics.movedim(in_dims[5], 1)
    gradient = operator(
        upstream.to(grad_output.dtype).reshape(rows_shape),
        lse_upstream,
        _fold(input, in_dims[2], size, vector),
        _fold(target, in_dims[3], size, vector),
        weight,
        moved.expand(3, size, *rows).reshape(3, *rows_shape),
        torch.ones((), dtype=torch.float64, device=input.device),
        0,
        *options[1:],
    )
    return gradient.view(logits.shape), 0
