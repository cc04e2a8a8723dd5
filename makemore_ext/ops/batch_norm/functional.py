"""Batch norm as a function, the same call as torch's.

The formulas, and how the sums are kept exact, stand in csrc/cpu/batch_norm/batch_norm.cpp.
"""

from typing import Any

import torch
from torch import Tensor

from makemore_ext.ops.autograd import is_eager
from makemore_ext.ops.batch_norm.checks import check
from makemore_ext.ops.batch_norm.function import BatchNormFunction, apply
from makemore_ext.ops.batch_norm.options import ACTIVATIONS, Options
from makemore_ext.ops.tensors import compute_dtype


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
        output, statistics = apply(input, weight, bias, *running, options)
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
    return apply(*arguments)[0]


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
