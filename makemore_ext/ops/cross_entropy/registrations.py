"""What torch's transforms need to know of cross entropy: shapes and batching."""

from typing import Any

import torch
from torch import Tensor

from makemore_ext.ops.cross_entropy.options import MEAN, Options, class_dim
from makemore_ext.ops.tensors import batch_first, compute_dtype

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


def _fold(tensor: Tensor, dim: int | None, size: int, vector: bool) -> Tensor:
    """[B, N, ...] as [B N, ...], or [B, ...] where a sample is one row without dimension N."""
    batch = batch_first(tensor, dim, size)
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

    logits = batch_first(input, in_dims[0], size)
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

    logits = batch_first(input, in_dims[2], size)
    vector = logits.dim() == 2
    rows = _row_shape(logits[0])
    upstream = batch_first(grad_output, in_dims[0], size)
    if options.reduction != 0:
        if options.reduction == MEAN:
            upstream = upstream / batch_first(total, in_dims[6], size)
        upstream = upstream.view(size, *([1] * len(rows))).expand(size, *rows)
    rows_shape = [size] if vector else [size * rows[0], *rows[1:]]
    lse_upstream = None
    if grad_lse is not None:
        lse_upstream = batch_first(grad_lse, in_dims[1], size).reshape(rows_shape)
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
