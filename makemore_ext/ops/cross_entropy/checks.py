"""What cross_entropy refuses before any kernel starts, in torch's words where torch has them."""

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy  # whatever F's becomes

from makemore_ext._arguments import as_integer, as_number
from makemore_ext.ops.cross_entropy.options import REDUCTIONS, Options, class_dim
from makemore_ext.ops.tensors import FLOATING, check_device, describe, overlaps_itself

INDICES = (torch.int64, torch.uint8)


def checked_options(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
    lse_square_scale: float,
) -> Options:
    """The options; raises unless all arguments are as the docstring of `cross_entropy` says."""
    ignore_index, label_smoothing = as_integer(ignore_index), as_number(label_smoothing)
    lse_square_scale = as_number(lse_square_scale)
    if not is_valid(input, target, weight, ignore_index, reduction, label_smoothing):
        torch_cross_entropy(
            input,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
        )
        raise NotImplementedError(
            "input, target and weight must be dense tensors on one device and label_smoothing in "
            f"[0, 1], got {describe(input)}, {describe(target)}, {describe(weight)} and "
            f"{label_smoothing}"
        )
    check_device("input", input.device)
    if not isinstance(lse_square_scale, (int, float)):
        raise TypeError(f"lse_square_scale must be a number, got {lse_square_scale!r}")
    return Options(
        REDUCTIONS[reduction], ignore_index, float(label_smoothing), float(lse_square_scale)
    )


def is_valid(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    ignore_index: int,
    reduction: str,
    label_smoothing: float,
) -> bool:
    """Whether torch's arguments are such as the kernels take, on a device that has them or not."""
    if not (isinstance(input, Tensor) and isinstance(target, Tensor)):
        return False
    dtype, device, shape, target_dtype = input.dtype, input.device, input.shape, target.dtype
    if dtype not in FLOATING or not shape or input.layout != torch.strided:
        return False
    if target.device != device or target.layout != torch.strided:
        return False
    if reduction not in REDUCTIONS or isinstance(ignore_index, bool):
        return False
    if not isinstance(ignore_index, int):
        return False
    if not isinstance(label_smoothing, (int, float)) or not 0.0 <= label_smoothing <= 1.0:
        return False
    dim = class_dim(input)
    if target_dtype in FLOATING:
        if target.shape != shape or ignore_index >= 0:
            return False
    elif target_dtype not in INDICES or target.shape != (*shape[:dim], *shape[dim + 1 :]):
        return False
    if weight is None:
        return True
    if not isinstance(weight, Tensor) or weight.shape != shape[dim : dim + 1]:
        return False
    if weight.device != device or weight.layout != torch.strided:
        return False
    if target_dtype in FLOATING:
        return weight.dtype in FLOATING
    return not (weight.requires_grad and torch.is_grad_enabled()) and (
        weight.dtype == dtype or torch.is_autocast_enabled(device.type)
    )


def check_inplace(input: Tensor) -> None:
    """Raises RuntimeError where there will be a backward that must not overwrite `input`."""
    if not (isinstance(input, Tensor) and input.requires_grad and torch.is_grad_enabled()):
        return
    base = input if input._base is None else input._base
    if base.is_leaf and base.requires_grad:
        raise RuntimeError(
            "input must come from an operation if inplace_backward is to overwrite it, got a leaf "
            "that requires grad, or a view of one"
        )
    if overlaps_itself(input):
        raise RuntimeError(
            "input must not overlap itself if inplace_backward is to overwrite it, got strides "
            f"{input.stride()} for shape {list(input.shape)}"
        )
