"""The autograd Function of batch norm."""

from typing import Any

import torch
from torch import Tensor

from makemore_ext._native import operators
from makemore_ext.ops.autograd import is_batched
from makemore_ext.ops.batch_norm.formulas import gradients, tangent
from makemore_ext.ops.batch_norm.options import Options


class BatchNormFunction(torch.autograd.Function):
    """apply(input, weight, bias, running_mean, running_var, options) -> output, statistics.

    `input` is [N, C, d1, ...], `weight` and `bias` are None or [C] float32, or float64 for float64
    input. `options` are training, momentum, correction, eps and a number of ACTIVATIONS. The
    running statistics [C] are read in evaluation and, unless None, updated in training.
    `statistics` [3, C] float64 are mean, variance and 1 / sqrt(variance + eps) of each channel, and
    not differentiable.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        options: Options,
    ) -> tuple[Tensor, Tensor]:
        training, momentum, *rest = options
        tensors = (input, weight, bias, running_mean, running_var)
        if training and running_mean is not None:
            return operators.batch_norm_forward_and_update.default(*tensors, momentum, *rest)
        return operators.batch_norm_forward.default(*tensors, training, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple[Tensor, Tensor]) -> None:
        input, weight, bias, _, _, ctx.options = inputs
        output, statistics = outputs
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        activated = output if ctx.options.activation else None
        ctx.save_for_backward(input, weight, bias, activated, statistics)
        ctx.save_for_forward(input, weight, bias, statistics)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output = grad_outputs[0]
        if grad_output is None:
            return (None,) * 6
        input, weight, bias, output, statistics = ctx.saved_tensors
        training, _, correction, _, activation = options = ctx.options
        needs_input, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        if torch.is_grad_enabled() or is_batched(grad_output):
            of_evaluation = None if training else statistics
            grads = gradients(grad_output, input, weight, bias, of_evaluation, options)
        else:
            grads = operators.batch_norm_backward.default(
                grad_output,
                input,
                weight,
                output,
                statistics,
                training,
                correction,
                activation,
                needs_input,
                needs_weight or needs_bias,
            )
        return (
            grads[0] if needs_input else None,
            grads[1] if needs_weight else None,
            grads[2] if needs_bias else None,
            None,
            None,
            None,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, None]:
        input, weight, bias, statistics = ctx.saved_tensors
        of_evaluation = None if ctx.options.training else statistics
        return tangent(input, weight, bias, of_evaluation, ctx.options, *tangents[:3]), None
