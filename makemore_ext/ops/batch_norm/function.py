"""The autograd Functions around the operators, for where there is no native autograd."""

from typing import Any

import torch
from torch import Tensor

from makemore_ext._native import operators
from makemore_ext.ops.autograd import check_forward_mode, no_tangent, taken_whole
from makemore_ext.ops.batch_norm import formulas
from makemore_ext.ops.batch_norm.options import Options


class BatchNormFunction(torch.autograd.Function):
    """`apply(input, weight, bias, running_mean, running_var, *options)` -> output, statistics.

    `input` is [N, C, d1, ...], `weight` and `bias` are None or [C], of its dtype or the one it is
    computed in. The five `options`, flat as torch's vmap has them, are training, momentum,
    correction, eps and a number of ACTIVATIONS. The running statistics [C] are read in evaluation
    and, unless None, updated in training. `statistics` [3, C] float64 are mean, variance and
    1 / sqrt(variance + eps) of each channel, and not differentiable.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        momentum: float,
        *rest: Any,
    ) -> tuple[Tensor, Tensor]:
        tensors = (input, weight, bias, running_mean, running_var)
        if training and running_mean is not None:
            return operators.batch_norm_forward_and_update.default(*tensors, momentum, *rest)
        return operators.batch_norm_forward.default(*tensors, training, *rest)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple[Tensor, Tensor]) -> None:
        input, weight, *_ = inputs
        training, _, correction, _, activation = inputs[5:]
        output, statistics = outputs
        ctx.options = training, correction, activation
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        tensors = (input, weight, output if activation else None, statistics)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if grads[0] is None:
            return (None,) * 10
        needs_input, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        *tensors, statistics = ctx.saved_tensors
        grad_input, grad_weight, grad_bias = BatchNormBackwardFunction.apply(
            grads[0],
            *tensors,
            statistics.double(),  # as hooks may have kept them in less
            *ctx.options,
            needs_input,
            needs_weight or needs_bias,
        )
        return (
            grad_input if needs_input else None,
            grad_weight if needs_weight else None,
            grad_bias if needs_bias else None,
            *[None] * 7,
        )

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor, Tensor | None]:
        check_forward_mode("batch_norm")
        arguments: list[Any] = [*ctx.saved_tensors, *tangents[:3], ctx.options]
        output = formulas.tangent(*arguments)
        return output, no_tangent(ctx.saved_tensors[3])


class BatchNormBackwardFunction(torch.autograd.Function):
    """The gradients of input, weight and bias, differentiable in what they are made of.

    `output` is part of that, None without activation: its own gradient goes on to the forward
    Function, and with it what bias and activation contribute.
    """

    generate_vmap_rule = True

    @staticmethod
    def forward(
        grad_output: Tensor,
        input: Tensor,
        weight: Tensor | None,
        output: Tensor | None,
        statistics: Tensor,
        *options: Any,
    ) -> tuple[Tensor, Tensor, Tensor]:
        return operators.batch_norm_backward.default(
            grad_output, input, weight, output, statistics, *options
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple[Tensor, ...]) -> None:
        *options, ctx.needs_grad_input, ctx.needs_grad_parameters = inputs[5:]
        tensors, ctx.options = inputs[:5], tuple(options)
        grad_input, *grads = outputs
        unneeded = [] if ctx.needs_grad_input else [grad_input]
        ctx.mark_non_differentiable(*unneeded, *([] if ctx.needs_grad_parameters else grads))
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*tensors)
        ctx.save_for_forward(*tensors)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if all(grad is None for grad in grads):
            return (None,) * 10
        arguments: list[Any] = [*grads, *ctx.saved_tensors, ctx.options]
        result = formulas.second_gradients(*arguments)
        return *result, *[None] * 6

    @staticmethod
    def jvp(ctx: Any, *tangents: Any) -> tuple[Tensor | None, ...]:
        check_forward_mode("batch_norm")
        arguments: list[Any] = [*ctx.saved_tensors, *tangents[:4], ctx.options]
        result = formulas.second_tangents(*arguments)
        needed = (ctx.needs_grad_input, *[ctx.needs_grad_parameters] * 2)
        return tuple(
            tangent if needs else None for tangent, needs in zip(result, needed, strict=True)
        )


@taken_whole
def apply(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    options: Options,
) -> tuple[Tensor, Tensor]:
    """See `BatchNormFunction`."""
    return BatchNormFunction.apply(input, weight, bias, running_mean, running_var, *options)
