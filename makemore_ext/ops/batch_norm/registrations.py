"""What torch's transforms need to know of batch norm: shapes and batching."""

from typing import Any

import torch
from torch import Tensor

from makemore_ext.ops.batching import register_vmap
from makemore_ext.ops.tensors import compute_dtype

# ---- shapes, for torch.compile and export ----


def _like(input: Tensor) -> Tensor:
    """As torch suggests for the input: channels last or contiguous."""
    memory_format = torch.contiguous_format
    last = {4: torch.channels_last, 5: torch.channels_last_3d}.get(input.dim())
    if last is not None and not input.is_contiguous():
        if input.is_contiguous(memory_format=last):
            memory_format = last
        else:
            memory_format = torch._prims_common.suggest_memory_format(input)
    return torch.empty_like(input, memory_format=memory_format)


def _fake_forward(input: Tensor, *_: Any) -> tuple[Tensor, Tensor]:
    return _like(input), input.new_empty((3, input.shape[1]), dtype=torch.float64)


torch.library.register_fake("makemore_ext::batch_norm_forward", _fake_forward)
torch.library.register_fake("makemore_ext::batch_norm_forward_and_update", _fake_forward)


@torch.library.register_fake("makemore_ext::batch_norm_backward")
def _(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    output: Tensor | None,
    statistics: Tensor,
    training: bool,
    correction: float,
    activation: int,
    needs_grad_input: bool,
    needs_grad_parameters: bool,
) -> tuple[Tensor, Tensor, Tensor]:
    size = input.shape[1] if needs_grad_parameters else 0
    dtype = compute_dtype(input) if weight is None else weight.dtype
    grad_weight, grad_bias = (input.new_empty(size, dtype=dtype) for _ in range(2))
    grad_input = _like(input) if needs_grad_input else input.new_empty(0)
    return grad_input, grad_weight, grad_bias


@torch.library.register_fake("makemore_ext::batch_norm_statistics")
def _(input: Tensor) -> Tensor:
    return input.new_empty((2, input.shape[1]), dtype=torch.float64)


@torch.library.register_fake("makemore_ext::batch_norm_gradient_sums")
def _(grad_output: Tensor, input: Tensor, *_: Any) -> Tensor:
    return input.new_empty((2, input.shape[1]), dtype=torch.float64)


@torch.library.register_fake("makemore_ext::batch_norm_input_gradient")
def _(grad_output: Tensor, input: Tensor, *_: Any) -> Tensor:
    return _like(input)


# ---- batching, for torch.func.vmap: the batch becomes more channels ----


def _fold(tensor: Tensor | None, dim: int | None, size: int, at: int) -> Tensor | None:
    """The batch dimension moved before dimension `at`, and joined with it."""
    if tensor is None:
        return None
    if dim is None:
        tensor = tensor.unsqueeze(at)
        tensor = tensor.expand(*tensor.shape[:at], size, *tensor.shape[at + 1 :])
    else:
        tensor = tensor.movedim(dim, at)
    return tensor.flatten(at, at + 1)


def _unfold(tensor: Tensor, size: int, channels: int, at: int) -> Tensor:
    return tensor.unflatten(at, (size, channels))


def _channels(input: Tensor, dim: int | None) -> int:
    """Of one sample."""
    return input.shape[1] if dim is None else input.movedim(dim, 0).shape[2]


def _fold_all(size: int, tensors: tuple, dims: tuple, at: tuple[int, ...]) -> list[Tensor | None]:
    return [
        _fold(tensor, dim, size, where)
        for tensor, dim, where in zip(tensors, dims, at, strict=True)
    ]


@register_vmap("batch_norm_forward")
def _(info: Any, in_dims: tuple, *arguments: Any) -> tuple[tuple, tuple]:
    shape = info.batch_size, _channels(arguments[0], in_dims[0])
    folded = _fold_all(shape[0], arguments[:5], in_dims[:5], (1, 0, 0, 0, 0))
    output, statistics = torch.ops.makemore_ext.batch_norm_forward.default(*folded, *arguments[5:])
    return (_unfold(output, *shape, 1), _unfold(statistics, *shape, 1)), (1, 1)


@register_vmap("batch_norm_forward_and_update")
def _(info: Any, in_dims: tuple, *arguments: Any) -> tuple[tuple, tuple]:
    shape = info.batch_size, _channels(arguments[0], in_dims[0])
    running, running_dims = arguments[3:5], in_dims[3:5]
    if None in running_dims:
        raise RuntimeError(
            "batch_norm got a batched input, but running_mean or running_var, which are updated in "
            "place, are not batched: pass them with a batch dimension, or track_running_stats=False"
        )
    folded = _fold_all(shape[0], arguments[:5], in_dims[:5], (1, 0, 0, 0, 0))
    updated = [tensor.clone() for tensor in folded[3:] if tensor is not None]
    output, statistics = torch.ops.makemore_ext.batch_norm_forward_and_update.default(
        *folded[:3], *updated, *arguments[5:]
    )
    for tensor, dim, new in zip(running, running_dims, updated, strict=True):
        tensor.movedim(dim, 0).copy_(_unfold(new, *shape, 0))
    return (_unfold(output, *shape, 1), _unfold(statistics, *shape, 1)), (1, 1)


@register_vmap("batch_norm_backward")
def _(info: Any, in_dims: tuple, *arguments: Any) -> tuple[tuple, tuple]:
    shape = info.batch_size, _channels(arguments[1], in_dims[1])
    folded = _fold_all(shape[0], arguments[:5], in_dims[:5], (1, 1, 0, 1, 1))
    needs_grad_input, needs_grad_parameters = arguments[-2:]
    grad_input, *grads = torch.ops.makemore_ext.batch_norm_backward.default(*folded, *arguments[5:])
    if needs_grad_input:
        grad_input = _unfold(grad_input, *shape, 1)
    if needs_grad_parameters:
        grads = [_unfold(grad, *shape, 0) for grad in grads]
    dims = (1 if needs_grad_input else None, *[0 if needs_grad_parameters else None] * 2)
    return (grad_input, *grads), dims
