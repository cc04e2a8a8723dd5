"""Batch norm with the activation that follows it: the Function, the functional form, the modules.

The formulas, and how the sums are kept exact, stand in csrc/cpu/batch_norm/batch_norm.h.
"""

from typing import Any

import torch
from torch import Tensor, nn

from makemore_ext._batch_norm_checks import ACTIVATIONS, check, check_keywords
from makemore_ext._batch_norm_transforms import Options, compute_dtype, gradients, tangent
from makemore_ext._function import applier, is_batched, is_eager
from makemore_ext._native import operators


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


_apply = applier(BatchNormFunction)


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
    """Normalises each channel over the batch, the same call as `torch.nn.functional.batch_norm`.

    Args:
        input: [N, C, d1, ...], float16, bfloat16, float32 or float64, any strides.
        running_mean: [C]; read in evaluation, updated in place in training unless None.
        running_var: [C], likewise. In training it takes in the variance divided by n - 1, with n
            the elements of a channel, as torch does, whatever `correction` is.
        weight: a factor for each channel [C], or None for ones.
        bias: a summand for each channel [C], or None for zeros. `weight`, `bias` and the running
            statistics have the dtype of `input`, or float32 where that is narrower.
        training: normalise with the statistics of the batch, not the running ones.
        momentum: the share of the batch in the new running statistics.
        eps: added to the variance.
        correction: as in `torch.var`: the batch is normalised with the variance divided by
            n - correction. 0 is torch's batch norm, 1 the notebook's. Without effect in
            evaluation.
        activation: None, "tanh" or "relu", applied to the result and fused into both passes.

    Returns:
        The shape and dtype of `input`, channels last where torch's result is, else contiguous.

    Raises:
        NotImplementedError: the dtype, device or layout of `input` is not supported.
        RuntimeError: shapes or dtypes that torch refuses, in torch's words.
        TypeError: an argument is of another type.
        ValueError: `eps`, `correction` or `activation` has a value that is not allowed, training
            has one value per channel, or one of the running statistics is missing.

    The derivation of the gradient is that of "makemore part 4", exercise 3; batch norm is from
    Ioffe and Szegedy (2015).
    """
    check(
        input,
        running_mean,
        running_var,
        weight,
        bias,
        training,
        momentum,
        eps,
        correction,
        activation,
    )
    dtype = compute_dtype(input)
    if weight is not None and (weight.dtype is not dtype or weight.dim() != 1):
        weight = weight.to(dtype).reshape(-1)
    if bias is not None and (bias.dtype is not dtype or bias.dim() != 1):
        bias = bias.to(dtype).reshape(-1)
    options = Options(
        training, float(momentum), float(correction), float(eps), ACTIVATIONS[activation]
    )
    if torch.compiler.is_compiling():
        # What is traced must not write to what it was given within a Function.
        update = training and running_mean is not None
        running = (None, None) if update else (running_mean, running_var)
        output, statistics = _apply(input, weight, bias, *running, options)
        if update:
            _update(running_mean, running_var, statistics, input, options)
        return output
    arguments = (input, weight, bias, running_mean, running_var, options)
    needs_grad = torch.is_grad_enabled() and (
        input.requires_grad
        or (weight is not None and weight.requires_grad)
        or (bias is not None and bias.requires_grad)
    )
    if not needs_grad and is_eager():
        return BatchNormFunction.forward(*arguments)[0]
    return _apply(*arguments)[0]


@torch.no_grad()
def _update(
    running_mean: Any, running_var: Any, statistics: Tensor, input: Tensor, options: Options
) -> None:
    count = input.numel() // max(1, input.shape[1])
    if count == 0:
        return
    momentum = options.momentum
    mean, variance, _ = statistics
    unbiased = variance * ((count - options.correction) / (count - 1))
    for running, new in ((running_mean, mean), (running_var, unbiased)):
        running.copy_((1 - momentum) * running.double() + momentum * new)


class _BatchNorm(nn.modules.batchnorm._BatchNorm):
    """What the three modules share: torch's own, with the forward pass of `batch_norm`."""

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
        device: Any = None,
        dtype: Any = None,
        *,
        correction: int = 0,
        activation: str | None = None,
        **options: Any,
    ) -> None:
        check_keywords(correction, activation)
        super().__init__(
            num_features, eps, momentum, affine, track_running_stats, device, dtype, **options
        )
        self.correction = correction
        self.activation = activation

    def extra_repr(self) -> str:
        extra = super().extra_repr()
        if self.correction != 0:
            extra += f", correction={self.correction}"
        return extra if self.activation is None else f"{extra}, activation={self.activation!r}"

    def forward(self, input: Tensor) -> Tensor:
        self._check_input_dim(input)
        running_mean, running_var = self.running_mean, self.running_var
        training = self.training or (running_mean is None and running_var is None)
        momentum = 0.0 if self.momentum is None else self.momentum
        if self.training:
            if not self.track_running_stats:
                running_mean = running_var = None
            elif self.num_batches_tracked is not None:
                self.num_batches_tracked.add_(1)
                if self.momentum is None:  # the mean over all batches so far
                    momentum = 1.0 / float(self.num_batches_tracked)
        return batch_norm(
            input,
            running_mean,
            running_var,
            self.weight,
            self.bias,
            training,
            momentum,
            self.eps,
            correction=self.correction,
            activation=self.activation,
        )


class BatchNorm1d(_BatchNorm, nn.BatchNorm1d):
    """`torch.nn.BatchNorm1d` on the fused kernels: input [N, C] or [N, C, L].

    The constructor takes torch's arguments, and `correction` and `activation` of `batch_norm`
    beside them. Parameters, buffers and state_dict are torch's.
    """


class BatchNorm2d(_BatchNorm, nn.BatchNorm2d):
    """`torch.nn.BatchNorm2d` on the fused kernels: input [N, C, H, W]; see `BatchNorm1d`."""


class BatchNorm3d(_BatchNorm, nn.BatchNorm3d):
    """`torch.nn.BatchNorm3d` on the fused kernels: input [N, C, D, H, W]; see `BatchNorm1d`."""
