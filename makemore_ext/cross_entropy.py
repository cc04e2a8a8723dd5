"""Cross entropy of logits with class-index targets: the Function and its functional form.

The formulas, and what is kept from forward to backward, stand in csrc/cpu/cross_entropy.h.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from makemore_ext._function import apply
from makemore_ext._native import operators
from makemore_ext._validation import check_floating, check_vector

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # torch's numbering


class CrossEntropyFunction(torch.autograd.Function):
    """apply(input, target, weight, reduction, ignore_index, label_smoothing) -> loss, lse, total.

    `reduction` is a number of REDUCTIONS. Beside the loss come what backward needs, neither of
    them differentiable: `lse` [2, N] float64, the maximum of each row and the log of its sum of
    exponentials relative to that maximum, and `total_weight` [] float64, the divisor of the mean.
    """

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        reduction: int,
        ignore_index: int,
        label_smoothing: float,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return operators.cross_entropy_forward.default(
            input, target, weight, reduction, ignore_index, label_smoothing
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, Tensor, Tensor]) -> None:
        input, target, weight, *ctx.options = inputs
        _, lse, total_weight = output
        ctx.mark_non_differentiable(lse, total_weight)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, target, weight, lse, total_weight)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output = grad_outputs[0]
        if grad_output is None:
            return (None,) * 6
        input, target, weight, lse, total_weight = ctx.saved_tensors
        if torch.is_grad_enabled():
            grad_input = differentiable_gradient(grad_output, input, target, weight, *ctx.options)
        else:
            grad_input = operators.cross_entropy_backward.default(
                grad_output, input, target, weight, lse, total_weight, *ctx.options
            )
        return grad_input, None, None, None, None, None


def differentiable_gradient(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    """The gradient of the loss for `input` in torch operations: what create_graph=True needs.

    The same formula as the kernel's, so that its own derivatives are torch's to take.
    """
    classes = input.shape[1]
    valid = target != ignore_index
    index = torch.where(valid, target, 0)
    class_weight = torch.ones_like(input[0]) if weight is None else weight
    row_weight = torch.where(valid, class_weight[index], 0)
    if reduction == REDUCTIONS["mean"]:
        grad_output = grad_output / row_weight.sum()
    upstream = torch.where(valid, grad_output, 0).unsqueeze(1)

    softmax = input.softmax(1)
    one_hot = F.one_hot(index, classes).to(input.dtype)
    on_target = row_weight.unsqueeze(1) * (softmax - one_hot)
    on_classes = class_weight.sum() * softmax - class_weight
    return upstream * ((1 - label_smoothing) * on_target + label_smoothing / classes * on_classes)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    size_average: bool | None = None,
    ignore_index: int = -100,
    reduce: bool | None = None,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Cross entropy between logits and class indices, as `torch.nn.functional.cross_entropy`.

    Args:
        input: logits [N, C], float32 or float64 on the CPU, of any strides.
        target: class indices [N], int64, in [0, C) or equal to `ignore_index`.
        weight: a factor for each class [C], of the dtype of `input`; None for ones. No gradient
            is computed for it.
        size_average: deprecated by torch in favour of `reduction`.
        ignore_index: rows with this target have loss 0, gradient 0 and no part in the mean.
        reduce: deprecated by torch in favour of `reduction`.
        reduction: "none" gives [N], "sum" their sum, "mean" that divided by the sum of the
            weights of the targets.
        label_smoothing: in [0, 1], the share of the target that is spread over all classes.

    Returns:
        The loss, of the dtype of `input`: [] or, without reduction, [N].

    Raises:
        IndexError: a target is outside [0, C) and not `ignore_index`.
        NotImplementedError: a dtype, device or number of dimensions is not supported.
        RuntimeError: `label_smoothing` is outside [0, 1], or `weight` has another length than C.
        ValueError: `reduction` is unknown, or the sizes of `input` and `target` differ.

    The derivation of the gradient is that of "makemore part 4", exercise 2.
    """
    if size_average is not None or reduce is not None:
        reduction = _legacy_reduction(size_average, reduce)
    _check(input, target, weight, reduction, label_smoothing)
    arguments = (input, target, weight, REDUCTIONS[reduction], ignore_index, label_smoothing)
    if torch.is_grad_enabled() and input.requires_grad:
        return apply(CrossEntropyFunction, *arguments)[0]
    return operators.cross_entropy_forward.default(*arguments)[0]


def _legacy_reduction(size_average: bool | None, reduce: bool | None) -> str:
    """What torch makes of its two deprecated arguments."""
    if reduce is False:
        return "none"
    return "sum" if size_average is False else "mean"


def _check(
    input: Tensor, target: Tensor, weight: Tensor | None, reduction: str, label_smoothing: float
) -> None:
    check_floating("input", input)
    if input.dim() != 2:
        raise NotImplementedError(
            f"input must have 2 dimensions [N, C], got shape {list(input.shape)}"
        )
    if not isinstance(target, Tensor):
        raise TypeError(f"target must be a Tensor, got {type(target).__name__}")
    if target.dtype != torch.int64:
        raise NotImplementedError(f"target must be int64 class indices, got {target.dtype}")
    if target.dim() != 1:
        raise NotImplementedError(
            f"target must have 1 dimension [N], got shape {list(target.shape)}"
        )
    if target.shape[0] != input.shape[0]:
        raise ValueError(
            f"Expected input batch_size ({input.shape[0]}) to match "
            f"target batch_size ({target.shape[0]})."
        )
    if target.device != input.device:
        raise ValueError(f"target must be on {input.device} as input is, got {target.device}")
    check_vector("weight", weight, input.shape[1], input)
    if weight is not None and weight.requires_grad:
        raise NotImplementedError("weight must not require a gradient: none is computed for it")
    if reduction not in REDUCTIONS:
        raise ValueError(f"{reduction} is not a valid value for reduction")
    if not 0.0 <= label_smoothing <= 1.0:
        raise RuntimeError(f"label_smoothing must be between 0.0 and 1.0. Got: {label_smoothing}")


@torch.library.register_fake("makemore_ext::cross_entropy_forward")
def _(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> tuple[Tensor, Tensor, Tensor]:
    rows = input.shape[0]
    loss = input.new_empty((rows,) if reduction == REDUCTIONS["none"] else ())
    lse = input.new_empty((2, rows), dtype=torch.float64)
    return loss, lse, input.new_empty((), dtype=torch.float64)


@torch.library.register_fake("makemore_ext::cross_entropy_backward")
def _(
    grad_output: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    lse: Tensor,
    total_weight: Tensor,
    reduction: int,
    ignore_index: int,
    label_smoothing: float,
) -> Tensor:
    return input.new_empty(input.shape)
