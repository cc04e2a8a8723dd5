"""Cross entropy as a function, the same call as torch's.

The formulas stand in csrc/cpu/cross_entropy/cross_entropy.cpp.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy as torch_cross_entropy
from torch.overrides import handle_torch_function, has_torch_function_variadic

from makemore_ext._native import autograd, operators
from makemore_ext.ops.autograd import is_eager, is_traced
from makemore_ext.ops.cross_entropy.checks import check_inplace, checked_options
from makemore_ext.ops.cross_entropy.dtensor import of_dtensor
from makemore_ext.ops.cross_entropy.function import apply
from makemore_ext.ops.cross_entropy.options import class_dim
from makemore_ext.ops.tensors import (
    check_indices,
    checks_cuda_indices,
    compute_dtype,
    is_dtensor,
)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    inplace_backward: bool = False,
    return_lse: bool = False,
    lse_square_scale: float = 0.0,
) -> Any:
    """Cross entropy of logits, the same call as `torch.nn.functional.cross_entropy`.

    Args:
        input: logits [N, C, d1, ...] or [C], float16, bfloat16, float32 or float64, any strides. A
            DTensor too, see `of_dtensor`.
        target: class indices [N, d1, ...] or [], int64 or uint8, in [0, C) or `ignore_index`; or
            probabilities of the shape of `input`, floating.
        weight: a factor for each class [C], of the dtype of `input`; None for ones.
        size_average: deprecated by torch in favour of `reduction`.
        ignore_index: rows with this target have loss 0, gradient 0 and no part in the mean. For
            class indices only.
        reduce: deprecated by torch in favour of `reduction`.
        reduction: "none" gives [N, d1, ...], "sum" their sum, "mean" that divided by the sum of the
            weights of the targets, or by the number of rows where targets are probabilities.
        label_smoothing: in [0, 1], the share of the target that is spread over all classes.
        inplace_backward: the gradient takes the memory of `input`, which backward overwrites: half
            the memory. Whatever else needs `input` after that must not; autograd notices where it
            does. Without effect in torch.compile, torch.jit.trace and torch.func.
        return_lse: return log(sum(exp(input))) of each row too, differentiable.
        lse_square_scale: adds this times lse^2 to the loss of each row that is not ignored, before
            the reduction (the z-loss of PaLM), which keeps lse near 0.

    Returns:
        The loss, [] or [N, d1, ...], of the dtype of `input`, float32 in autocast; with
        `return_lse` also lse [N, d1, ...], float32, or float64 for float64 input.

    Raises:
        IndexError: a target is outside [0, C) and not `ignore_index`. On a CUDA device, where
            telling would mean to wait for it, the loss and the gradient of its row are NaN instead,
            unless the environment variable MAKEMORE_EXT_CHECK is 1.
        NotImplementedError: the dtype, device or layout of `input` is not supported.
        RuntimeError: shapes, dtypes or `label_smoothing` that torch refuses, in torch's words;
            `inplace_backward` where `input` is a leaf that requires grad, or overlaps itself.
        ValueError: `reduction` is unknown, or the sizes of `input` and `target` differ.

    The derivation of the gradient is that of "makemore part 4", exercise 2.
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
    inplace_backward = inplace_backward and not is_traced()
    if inplace_backward:
        check_inplace(input)
    if autograd is not None and not torch.compiler.is_compiling():
        result = autograd.cross_entropy(
            input,
            target,
            weight,
            ignore_index,
            reduction,
            label_smoothing,
            inplace_backward,
            return_lse,
            lse_square_scale,
        )
        if result is not NotImplemented:
            return result
    if is_dtensor(input):
        return of_dtensor(
            input,
            target,
            weight,
            ignore_index,
            reduction,
            return_lse=return_lse,
            label_smoothing=label_smoothing,
            inplace_backward=inplace_backward,
            lse_square_scale=lse_square_scale,
        )
    if is_dtensor(target) or is_dtensor(weight):
        raise NotImplementedError("target and weight must be plain tensors where input is one")
    if has_torch_function_variadic(input, target, weight):
        return handle_torch_function(
            cross_entropy,
            (input, target, weight),
            input,
            target,
            weight,
            ignore_index=ignore_index,
            reduction=reduction,
            label_smoothing=label_smoothing,
            inplace_backward=inplace_backward,
            return_lse=return_lse,
            lse_square_scale=lse_square_scale,
        )
    if isinstance(input, Tensor) and isinstance(target, Tensor) and input.dim() == 1:
        target = target.squeeze() if target.shape == (1,) and input.shape != (1,) else target
    options = checked_options(
        input, target, weight, ignore_index, reduction, label_smoothing, lse_square_scale
    )
    if input.shape[class_dim(input)] == 0:  # torch's corner cases
        loss = torch_cross_entropy(
            input,
            target,
            weight,
            ignore_index=options.ignore_index,
            reduction=reduction,
            label_smoothing=options.label_smoothing,
        )
        return (loss, input.logsumexp(class_dim(input))) if return_lse else loss
    if target.is_cuda and not target.is_floating_point() and is_eager() and checks_cuda_indices():
        check_indices("target", target, input.shape[class_dim(input)], options.ignore_index)
    dtype = input.dtype
    if target.is_floating_point():
        dtype = torch.promote_types(dtype, target.dtype)
        dtype = dtype if weight is None else torch.promote_types(dtype, weight.dtype)
        input, target = input.to(dtype), target.to(dtype)
    if weight is not None:
        weight = weight.to(compute_dtype(input))
    if autograd is not None:
        loss, _, _, lse = operators.cross_entropy_forward.default(
            input, target, weight, *options, return_lse
        )
    else:
        inplace_backward = inplace_backward and is_eager()
        loss, _, _, lse = apply(input, target, weight, options, inplace_backward, return_lse)
    if loss.dtype != dtype and not torch.is_autocast_enabled(input.device.type):
        loss = loss.to(dtype)
    return (loss, lse) if return_lse else loss


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """What torch makes of its two deprecated arguments."""
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"
