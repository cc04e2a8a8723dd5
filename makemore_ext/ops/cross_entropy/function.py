"""The autograd Functions of cross entropy.

What is kept from forward to backward stands in csrc/cpu/cross_entropy/cross_entropy.cpp.
"""

from typing import Any

import torch
from torch import Tensor

from makemore_ext._native import operators
from makemore_ext.ops.autograd import is_batched
from makemore_ext.ops.cross_entropy.formulas import gradients, tangents
from makemore_ext.ops.cross_entropy.options import Options
from makemore_ext.ops.tensors import compute_dtype


class CrossEntropyFunction(torch.autograd.Function):
    """apply(input, target, weight, options, inplace_backward, return_lse).

    Gives loss, lse, statistics and total. `options` are a reduction of REDUCTIONS, ignore_index,
    label_smoothing and lse_square_scale. `loss` and `lse` [N, d1, ...], which is None unless
    `return_lse`, are float32, or float64 for float64 input, and differentiable.
    The last two are what backward needs: `statistics` [3, N, d1, ...] float64, see
    csrc/cpu/cross_entropy/cross_entropy.cpp, and `total` [] float64, the divisor of the mean.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        inplace_backward: bool,
        return_lse: bool,
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor]:
        loss, statistics, total_weight = operators.cross_entropy_forward.default(
            input, target, weight, *options
        )
        lse = None
        if return_lse:
            lse = (statistics[0] + statistics[1].log()).to(loss.dtype)
        return loss, lse, statistics, total_weight

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: tuple[Any, ...]) -> None:
        input, target, weight, ctx.options, ctx.inplace_backward, ctx.return_lse = inputs
        _, _, statistics, total_weight = output
        ctx.mark_non_differentiable(statistics, total_weight)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, target, weight, statistics, total_weight)
        ctx.save_for_forward(input, target, weight)

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_lse: Tensor | None, *_: None
    ) -> tuple[Tensor | None, ...]:
        input, target, weight, statistics, total_weight = ctx.saved_tensors
        needs_input, needs_target, needs_weight, *_ = ctx.needs_input_grad
        grad_input = grad_target = grad_weight = None
        if grad_loss is None and grad_lse is None:
            return (None,) * 6
        if torch.is_grad_enabled() or needs_target or needs_weight:
            if ctx.inplace_backward:
                raise RuntimeError(
                    "inplace_backward must be False with create_graph=True and for gradients of "
                    "target or weight, got True"
                )
            grad_input, grad_target, grad_weight = gradients(
                grad_loss, grad_lse, input, target, weight, ctx.options
            )
        elif needs_input:
            if grad_loss is None:
                rows = statistics.shape[1:] if ctx.options.reduction == 0 else ()
                grad_loss = statistics.new_zeros(rows)
            upstream = grad_loss.to(compute_dtype(input))
            tensors = (upstream, grad_lse, input, target, weight, statistics, total_weight)
            if ctx.inplace_backward:
                operators.cross_entropy_backward_.default(*tensors, *ctx.options)
                torch.autograd.graph.increment_version(input)
                grad_input = input.detach()
            else:
                grad_input = operators.cross_entropy_backward.default(*tensors, *ctx.options)
        return (
            grad_input,
            grad_target if needs_target else None,
            grad_weight if needs_weight else None,
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *input_tangents: Any) -> tuple[Tensor | None, ...]:
        primals = ctx.saved_tensors
        loss, lse = tangents(primals, input_tangents[:3], ctx.options)
        return loss, lse if ctx.return_lse else None, None, None


class GradientInForward(torch.autograd.Function):
    """apply(input, target, weight, options) -> loss, its gradient formed along with it.

    The logits are read once for both, and backward has nothing left to do where the upstream
    gradient is 1. For losses that are reduced, and for gradients of input alone.
    """

    @staticmethod
    def forward(
        ctx: Any, input: Tensor, target: Tensor, weight: Tensor | None, options: Options
    ) -> Tensor:
        loss, ctx.gradient = operators.cross_entropy_forward_with_gradient.default(
            input, target, weight, *options
        )
        ctx.options = options
        ctx.save_for_backward(input, target, weight)
        return loss

    @staticmethod
    def backward(ctx: Any, grad_loss: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled() or is_batched(grad_loss):
            input, target, weight = ctx.saved_tensors
            gradient = gradients(grad_loss, None, input, target, weight, ctx.options)[0]
            return gradient, None, None, None
        gradient, ctx.gradient = ctx.gradient, None
        if gradient is None:  # given away by an earlier backward
            gradient = operators.cross_entropy_forward_with_gradient.default(
                *ctx.saved_tensors, *ctx.options
            )[1]
        operators.cross_entropy_scale_.default(gradient, grad_loss)
        return gradient, None, None, None
