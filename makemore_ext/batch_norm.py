"""Batch norm with the activation that follows it: the Function and its functional form.

The formulas, and how the sums are kept exact, stand in csrc/cpu/batch_norm.h.
"""

from typing import Any

import torch
from torch import Tensor

from makemore_ext._function import applier
from makemore_ext._native import operators
from makemore_ext._validation import check_floating, check_vector

ACTIVATIONS = {None: 0, "tanh": 1, "relu": 2}


class BatchNormFunction(torch.autograd.Function):
    """Batch norm of [N, C], see `batch_norm`.

    apply(input, weight, bias, running_mean, running_var, training, correction, eps, activation)
    returns output [N, C] and statistics [3, C] float64, which are mean, variance and
    1 / sqrt(variance + eps) of each channel and not differentiable. `activation` is a number of
    ACTIVATIONS. The running statistics are read in evaluation and never written.
    """

    @staticmethod
    def forward(
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        running_mean: Tensor | None,
        running_var: Tensor | None,
        training: bool,
        correction: float,
        eps: float,
        activation: int,
    ) -> tuple[Tensor, Tensor]:
        return operators.batch_norm_forward.default(
            input, weight, bias, running_mean, running_var, training, correction, eps, activation
        )

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, outputs: tuple[Tensor, Tensor]) -> None:
        input, weight, bias, _, _, ctx.training, ctx.correction, ctx.eps, ctx.activation = inputs
        output, statistics = outputs
        ctx.mark_non_differentiable(statistics)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(input, weight, bias, output if ctx.activation else None, statistics)

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor | None) -> tuple[Tensor | None, ...]:
        grad_output = grad_outputs[0]
        if grad_output is None:
            return (None,) * 9
        input, weight, bias, output, statistics = ctx.saved_tensors
        if torch.is_grad_enabled():
            gradients = differentiable_gradients(
                grad_output,
                input,
                weight,
                bias,
                None if ctx.training else statistics,
                ctx.correction,
                ctx.eps,
                ctx.activation,
            )
        else:
            gradients = operators.batch_norm_backward.default(
                grad_output,
                input,
                weight,
                output,
                statistics,
                ctx.training,
                ctx.correction,
                ctx.activation,
            )
        grad_input, grad_weight, grad_bias = gradients
        return (
            grad_input if ctx.needs_input_grad[0] else None,
            grad_weight if ctx.needs_input_grad[1] else None,
            grad_bias if ctx.needs_input_grad[2] else None,
            *(None,) * 6,
        )


_apply = applier(BatchNormFunction)


def differentiable_gradients(
    grad_output: Tensor,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    statistics: Tensor | None,
    correction: float,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients for input, weight and bias in torch operations: what create_graph=True needs.

    `statistics` are those of evaluation, None in training, where they are functions of the input.
    """
    rows = input.shape[0]
    if statistics is None:
        centred = input - input.mean(0)
        invstd = (centred.square().sum(0) / (rows - correction) + eps).rsqrt()
    else:
        mean, _, invstd = statistics.to(input.dtype)
        centred = input - mean
    normalized = centred * invstd
    scale = 1 if weight is None else weight
    pre_activation = normalized * scale + (0 if bias is None else bias)
    if activation == ACTIVATIONS["tanh"]:
        grad_output = grad_output * (1 - pre_activation.tanh().square())
    elif activation == ACTIVATIONS["relu"]:
        grad_output = torch.where(pre_activation <= 0, 0, grad_output)

    grad_bias = grad_output.sum(0)
    grad_weight = (grad_output * normalized).sum(0)
    grad_input = grad_output
    if statistics is None:
        feedback = grad_bias / rows + normalized * grad_weight / (rows - correction)
        grad_input = grad_output - feedback
    return grad_input * (invstd * scale), grad_weight, grad_bias


def batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    correction: int = 0,
    activation: str | None = None,
) -> Tensor:
    """Normalises each channel over the batch, as `torch.nn.functional.batch_norm`.

    Args:
        input: [N, C], float32 or float64 on the CPU, of any strides.
        running_mean: [C]; read in evaluation, updated in place in training unless None.
        running_var: [C], likewise. In training it takes in the variance divided by N - 1, as
            torch does, whatever `correction` is.
        weight: a factor for each channel [C], or None for ones.
        bias: a summand for each channel [C], or None for zeros.
        training: normalise with the statistics of the batch, not the running ones.
        momentum: the share of the batch in the new running statistics.
        eps: added to the variance.
        correction: as in `torch.var`: the batch is normalised with the variance divided by
            N - correction. 0 is torch's batch norm, 1 the notebook's.
        activation: None, "tanh" or "relu", applied to the result and fused into both passes.

    Returns:
        [N, C], of the dtype of `input`.

    Raises:
        NotImplementedError: a dtype, device or number of dimensions is not supported.
        ValueError: another argument has a value or shape that is not allowed, or training has
            no more than one value per channel.

    The derivation of the gradient is that of "makemore part 4", exercise 3; batch norm is from
    Ioffe and Szegedy (2015).
    """
    _check(input, running_mean, running_var, weight, bias, training, eps, correction, activation)
    arguments = (
        input,
        weight,
        bias,
        running_mean,
        running_var,
        training,
        correction,
        eps,
        ACTIVATIONS[activation],
    )
    if torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in (input, weight, bias)
    ):
        output, statistics = _apply(*arguments)
    else:
        output, statistics = operators.batch_norm_forward.default(*arguments)
    if training and running_mean is not None and running_var is not None:
        _update_running(running_mean, running_var, statistics, input.shape[0], correction, momentum)
    return output


@torch.no_grad()
def _update_running(
    running_mean: Tensor,
    running_var: Tensor,
    statistics: Tensor,
    rows: int,
    correction: int,
    momentum: float,
) -> None:
    mean, variance, _ = statistics
    unbiased = (rows - correction) / (rows - 1)
    running_mean.mul_(1 - momentum).add_(mean, alpha=momentum)
    running_var.mul_(1 - momentum).add_(variance, alpha=momentum * unbiased)


def _check(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    eps: float,
    correction: int,
    activation: str | None,
) -> None:
    check_floating("input", input)
    if input.dim() != 2:
        raise NotImplementedError(
            f"input must have 2 dimensions [N, C], got shape {list(input.shape)}"
        )
    check_vector("weight", weight, input.shape[1], input)
    check_vector("bias", bias, input.shape[1], input)
    check_vector("running_mean", running_mean, input.shape[1], input)
    check_vector("running_var", running_var, input.shape[1], input)
    if (running_mean is None) != (running_var is None):
        raise ValueError("running_mean and running_var must be given together or not at all")
    if not training and running_mean is None:
        raise ValueError("running_mean and running_var must be given when training is False")
    if training and input.shape[0] <= 1:
        raise ValueError(
            f"Expected more than 1 value per channel when training, got input size {input.shape}"
        )
    if training and eps <= 0.0:
        raise ValueError(f"batch_norm eps must be positive during training, but got {eps}")
    if eps < 0.0:
        raise ValueError(f"batch_norm eps must be non-negative, but got {eps}")
    if correction not in (0, 1):
        raise ValueError(f"correction must be 0 or 1, got {correction}")
    if activation not in ACTIVATIONS:
        raise ValueError(f"activation must be None, 'tanh' or 'relu', got {activation!r}")


@torch.library.register_fake("makemore_ext::batch_norm_forward")
def _(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    correction: float,
    eps: float,
    activation: int,
) -> tuple[Tensor, Tensor]:
    statistics = input.new_empty((3, input.shape[1]), dtype=torch.float64)
    return input.new_empty(input.shape), statistics


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
) -> tuple[Tensor, Tensor, Tensor]:
    channels = input.shape[1]
    return input.new_empty(input.shape), input.new_empty(channels), input.new_empty(channels)
