"""The autograd Functions around the operators, for where there is no native autograd.

What is kept from forward to backward stands in csrc/cpu/cross_entropy/cross_entropy.cpp.
"""

import sys
from typing import Any

import torch
from torch import Tensor, nn

from makemore_ext._native import operators
from makemore_ext.ops.autograd import (
    check_forward_mode,
    is_batched,
    is_eager,
    no_tangent,
    taken_whole,
)
from makemore_ext.ops.cross_entropy import formulas
from makemore_ext.ops.cross_entropy.options import NONE, Options


class CrossEntropyFunction(torch.autograd.Function):
    """`apply(input, target, weight, *options, inplace_backward, return_lse)`.

    Gives loss, statistics, total_weight and lse, as the operator does. The four `options`, flat as
    torch's vmap has them, are a reduction of REDUCTIONS, ignore_index, label_smoothing and
    lse_square_scale. `loss` and `lse` [N, d1, ...], which has no elements unless `return_lse`, are
    float32, or float64 for float64 input, and differentiable. `statistics` [3, N, d1, ...] and
    `total_weight` [] are what backward needs.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        reduction: int,
        ignore_index: int,
        label_smoothing: float,
        lse_square_scale: float,
        inplace_backward: bool,
        return_lse: bool,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        return operators.cross_entropy_forward.default(
            input,
            target,
            weight,
            reduction,
            ignore_index,
            label_smoothing,
            lse_square_scale,
            return_lse,
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Tensor, ...]) -> None:
        input, target, weight, *options, ctx.inplace_backward, ctx.return_lse = inputs
        ctx.options = Options(*options)
        _, statistics, total_weight, lse = output
        ctx.mark_non_differentiable(statistics, total_weight, *([] if ctx.return_lse else [lse]))
        ctx.set_materialize_grads(False)
        tensors = (input, target, weight, statistics, total_weight)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_loss, _, _, grad_lse = grads
        if grad_loss is None and grad_lse is None:
            return (None,) * 9
        input, target, weight, statistics, total_weight = ctx.saved_tensors
        statistics, total_weight = statistics.double(), total_weight.double()  # as hooks keep them
        needs_input, needs_target, needs_weight, *_ = ctx.needs_input_grad
        if ctx.inplace_backward and (torch.is_grad_enabled() or needs_target or needs_weight):
            raise RuntimeError(
                "inplace_backward must be False with create_graph=True and for gradients of "
                "target or weight, got True"
            )
        grad_input = grad_target = grad_weight = None
        if grad_loss is not None and (needs_target or needs_weight):
            is_plain = is_eager() and not torch.is_grad_enabled() and not is_batched(grad_loss)
            grad_target, grad_weight = formulas.gradients_of_target(
                grad_loss, input, target, weight, statistics if is_plain else None, ctx.options
            )
        if needs_input:
            if grad_loss is None:
                assert grad_lse is not None
                rows = grad_lse if ctx.options[0] == NONE else total_weight
                grad_loss = torch.zeros_like(rows, dtype=grad_lse.dtype)
            tensors = (grad_loss, grad_lse, input, target, weight, statistics, total_weight)
            if ctx.inplace_backward and not (is_batched(grad_loss) or input.is_neg()):
                operators.cross_entropy_backward_.default(*tensors, *ctx.options)
                torch.autograd.graph.increment_version(input)
                grad_input = input.detach()
            else:
                grad_input = _apply_backward(*tensors, *ctx.options)
        return (
            grad_input,
            grad_target if needs_target else None,
            grad_weight if needs_weight else None,
            *[None] * 6,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        check_forward_mode("cross_entropy")
        *tensors, statistics, total_weight = ctx.saved_tensors
        arguments: list[Any] = [*tensors, *tangents[:3], ctx.options]
        loss, lse = formulas.tangents(*arguments)
        constants = no_tangent(statistics), no_tangent(total_weight)
        return loss, *constants, lse if ctx.return_lse else None


class CrossEntropyBackwardFunction(torch.autograd.Function):
    """The gradient of the logits, differentiable as a function of all that autograd knows."""

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_loss: Tensor,
        grad_lse: Tensor | None,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        statistics: Tensor,
        total_weight: Tensor,
        *options: Any,
    ) -> Tensor:
        return operators.cross_entropy_backward.default(
            grad_loss, grad_lse, input, target, weight, statistics, total_weight, *options
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        tensors, ctx.options = inputs[:5], Options(*inputs[7:])
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * 11
        arguments: list[Any] = [grads[0], *ctx.saved_tensors, ctx.options]
        result = formulas.second_gradients(*arguments)
        return *result, *[None] * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> Tensor:
        check_forward_mode("cross_entropy")
        arguments: list[Any] = [*ctx.saved_tensors, *tangents[:5], ctx.options]
        return formulas.second_tangent(*arguments)


class GradientInForward(torch.autograd.Function):
    """`apply(input, target, weight, options)` -> loss, its gradient formed along with it.

    The logits are read once for both, and backward has nothing left to do where the upstream
    gradient is 1. For losses that are reduced, and for gradients of input alone.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
    ) -> Tensor:
        loss, gradient = operators.cross_entropy_forward_with_gradient.default(
            input, target, weight, *options
        )
        ctx.options = options
        ctx.save_for_backward(input, target, weight, gradient)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or is_batched(grad_loss):
            *tensors, _ = ctx.saved_tensors
            kept = operators.cross_entropy_forward.default(
                *[None if tensor is None else tensor.detach() for tensor in tensors], *ctx.options
            )[1:3]
            return _apply_backward(grad_loss, None, *tensors, *kept, *ctx.options), None, None, None
        # One by one, as the logits may have changed by now.
        _, target, weight, gradient = ctx._raw_saved_tensors
        weight.unpack()
        target, gradient = target.unpack(), gradient.unpack()
        ctx.maybe_clear_saved_tensors()
        references = sys.getrefcount(gradient)
        if not _is_ours_alone(gradient, references):
            gradient = gradient.clone()
        operators.cross_entropy_scale_.default(
            gradient, grad_loss, target, ctx.options.ignore_index
        )
        return gradient, None, None, None


def _is_ours_alone(tensor: Any, references: int) -> bool:
    """Whether nobody but one variable has `tensor`; the count itself is one of two references."""
    storage = tensor.untyped_storage()
    users = torch._C._storage_Use_Count(storage._cdata)  # the tensor, and what asks
    return references <= 2 and tensor._use_count() == 1 and users == 2


@taken_whole
def apply(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
    inplace_backward: bool = False,
    return_lse: bool = False,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """See `CrossEntropyFunction`."""
    if is_eager() and input.is_inference() and not torch.is_inference_mode_enabled():
        input = input.clone()  # torch saves none of the logits, and so takes them
    if (
        is_eager()
        and type(input) in (Tensor, nn.Parameter)
        and torch.is_grad_enabled()
        and input.requires_grad
        and not (target.requires_grad or (weight is not None and weight.requires_grad))
        and options.reduction != NONE
        and input.dtype != torch.float16  # an upstream gradient may keep it from underflow
        and not (inplace_backward or return_lse)
    ):
        loss = GradientInForward.apply(input, target, weight, options)
        empty = loss.detach().new_empty(0)  # what backward needs is kept within
        return loss, empty, empty, empty
    return CrossEntropyFunction.apply(input, target, weight, *options, inplace_backward, return_lse)


_apply_backward = CrossEntropyBackwardFunction.apply
