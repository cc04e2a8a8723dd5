"""Batch norm as a function, the same call as torch's.

The formulas, and how the sums are kept exact, stand in csrc/cpu/batch_norm/batch_norm.cpp.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import batch_norm as torch_batch_norm
from torch.overrides import handle_torch_function, has_torch_function

from makemore_ext._arguments import as_number
from makemore_ext._native import autograd, operators
from makemore_ext.ops.autograd import is_functionalizing, is_traced, without_functionalize
from makemore_ext.ops.batch_norm.checks import check, check_keywords
from makemore_ext.ops.batch_norm.function import apply
from makemore_ext.ops.batch_norm.options import ACTIVATIONS, Options


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
    arguments = input, running_mean, running_var, weight, bias, training, momentum, eps, correction
    if autograd is not None and not torch.compiler.is_compiling():
        output = autograd.batch_norm(*arguments, activation, None)
        if output is not NotImplemented:
            return output
    return dispatch(*arguments, activation, None)


def dispatch(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None,
    bias: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    correction: int,
    activation: str | None,
    num_batches_tracked: Tensor | None,
) -> Tensor:
    """`batch_norm` where it is no plain call: what is wrong is said here, the rest is torch's.

    Adds 1 to `num_batches_tracked`, where there is one.
    """
    momentum, eps = as_number(momentum), as_number(eps)
    arguments = input, running_mean, running_var, weight, bias, training, momentum, eps, correction
    tensors = (input, running_mean, running_var, weight, bias)
    if has_torch_function(tensors):
        return handle_torch_function(dispatch, tensors, *arguments, activation, num_batches_tracked)
    if _is_left_to_torch(input, running_mean, training):
        check_keywords(correction, activation)
        return torch_batch_norm(*arguments[:8])
    check(*arguments, activation)
    weight, bias = as_vector(weight), as_vector(bias)
    options = Options(
        training, float(momentum), float(correction), float(eps), ACTIVATIONS[activation]
    )
    output = _forward(input, weight, bias, running_mean, running_var, options)
    if num_batches_tracked is not None:
        num_batches_tracked.add_(1)
    return output


def _is_left_to_torch(input: Any, running_mean: Tensor | None, training: bool) -> bool:
    """Whether it is one of the empty inputs that torch alone takes, and gives back."""
    if not isinstance(input, Tensor):
        return False
    return (input.dim() == 1 or (running_mean is None and not training)) and input.numel() == 0


def as_vector(tensor: Tensor | None) -> Tensor | None:
    """[C] of a parameter of another shape, as torch takes it."""
    return tensor if tensor is None or tensor.dim() == 1 else tensor.reshape(-1)


def _forward(
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    options: Options,
) -> Tensor:
    arguments = (input, weight, bias, running_mean, running_var)
    training, momentum, *rest = options
    update = training and running_mean is not None
    # Neither a Function that is traced nor functionalize lets an operator write, nor does torch
    # where it negates on the way.
    update_apart = False
    if training and running_mean is not None and running_var is not None:
        update_apart = (
            autograd is None
            if torch.compiler.is_compiling() or is_traced()
            else is_functionalizing() or running_mean.is_neg() or running_var.is_neg()
        )
    if update_apart:
        arguments = (input, weight, bias, None, None)
    if autograd is None:
        output, statistics = apply(*arguments, options)
    elif update and not update_apart:
        output, statistics = operators.batch_norm_forward_and_update.default(
            *arguments, momentum, *rest
        )
    else:
        output, statistics = operators.batch_norm_forward.default(*arguments, training, *rest)
    if update_apart:
        count: Any = 1
        for size in (input.shape[0], *input.shape[2:]):
            count = count * size
        update_running(running_mean, running_var, statistics[:2], count, options)
    return output


@torch.no_grad()
def update_running(
    running_mean: Any, running_var: Any, moments: Tensor, count: Any, options: Options
) -> None:
    """Takes a batch into the running statistics, apart from what is differentiated.

    `moments` [2, C] are its means and variances, `count` the elements of a channel.
    """
    # An empty batch leaves them as they are. torch.jit.trace has sizes as tensors.
    if isinstance(count, Tensor):
        momentum, degrees = options.momentum * count.clamp(max=1), (count - 1).clamp(min=1)
    else:
        momentum = options.momentum * torch.sym_min(count, 1)
        degrees = torch.sym_max(count - 1, 1)
    mean, variance = moments
    # One value is the operator's to refuse, when what is compiled runs.
    unbiased = variance * ((count - options.correction) / degrees)
    is_wrapped = not torch.compiler.is_compiling() and is_functionalizing()
    for running, new in ((running_mean, mean), (running_var, unbiased)):
        value = (1 - momentum) * running.double() + momentum * new
        running.copy_(without_functionalize(value, running) if is_wrapped else value)
