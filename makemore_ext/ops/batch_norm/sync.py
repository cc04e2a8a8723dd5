"""Batch norm of a batch that is spread over processes.

Each rank's kernel gives mean and variance of its own rows. With n, mean and M2 = n variance of each
rank, those of all are

    n = sum n_r,  mean = sum n_r mean_r / n,  M2 = sum (M2_r + n_r (mean_r - mean)^2)

The last is summed as M2_r + n_r mean_r^2, from which n mean^2 is taken, so that one all_reduce
brings all three. It cancels where a mean is far from 0 for its standard deviation: there M2 is
summed once more, about the mean that was found. All of this is in double.

Backward, each rank's kernel sums dz and dz xhat, as in csrc/cpu/batch_norm/batch_norm.cpp; one
all_reduce makes the sums of all of them, which is what feeds back into dx. The gradients of weight
and bias are sums over this rank's rows, as of any other parameter: whoever averages gradients
averages these.
"""

import zlib
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from makemore_ext._arguments import as_number
from makemore_ext._native import operators
from makemore_ext.ops.batch_norm.checks import check
from makemore_ext.ops.batch_norm.functional import as_vector, batch_norm, update_running
from makemore_ext.ops.batch_norm.options import ACTIVATIONS, Options
from makemore_ext.ops.ranks import Ranks, ranks_of

FIRST_CHANNELS = 2048  # of the first message
FAR = 2.0**10  # squares of a mean over a variance: more than that costs more than 10 bits of 53


def sync_batch_norm(
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
    *,
    group: Any = None,
    correction: int = 0,
    activation: str | None = None,
) -> Tensor:
    """`batch_norm` with the statistics of the rows of all ranks together.

    In training forward sends one message, an all_reduce of 32 KiB, and backward one of 16 bytes a
    channel, if the input needs a gradient. For more than 2,048 channels forward sends a second one,
    of 16 bytes for each of the others, and where a mean is more than 32 standard deviations from 0
    one of 8 bytes a channel. Evaluation sends none. A rank may have no rows. An all_reduce waits
    for ranks that do not come, evaluating instead for one, until the timeout of the group: that of
    `torch.distributed.init_process_group`. torch.compile leaves all of it out of its graphs.

    Args:
        input: this rank's rows [N, C, d1, ...]; N and d1, ... may differ between ranks.
        running_mean: as in `batch_norm`, and so are the next seven but for what is said of n: that
            are the elements of a channel on all ranks.
        running_var: [C].
        weight: [C] or None.
        bias: [C] or None.
        training: normalise with the statistics of the batch, not the running ones.
        momentum: the share of the batch in the new running statistics.
        eps: added to the variance.
        group: the torch.distributed process group that shares the batch; None for all.
        correction: 0 or 1.
        activation: None, "tanh" or "relu".

    Returns:
        This rank's part of what `batch_norm` of the whole batch returns.

    Raises:
        RuntimeError: in training, torch.distributed is not initialized or this process is not in
            `group`; in backward, `create_graph` is True.
        ValueError: in training, on every rank where the number of channels, the dtype, whether the
            input needs a gradient, or an option is not the same on all, or where all together have
            one value per channel.
        NotImplementedError, RuntimeError, TypeError, ValueError: as `batch_norm`; the other ranks
            then wait for this one.
    """
    momentum, eps = as_number(momentum), as_number(eps)
    ranks = ranks_of(group) if training else None
    if ranks is None or ranks.size == 1:
        return batch_norm(
            *(input, running_mean, running_var, weight, bias, training, momentum, eps),
            correction=correction,
            activation=activation,
        )
    check(
        *(_several_rows(input), running_mean, running_var, weight, bias, training, momentum, eps),
        correction,
        activation,
    )
    options = Options(True, float(momentum), float(correction), float(eps), ACTIVATIONS[activation])
    moments, count = _moments_of_all(input, options, ranks, torch.is_grad_enabled())
    output = SyncBatchNormFunction.apply(
        input, as_vector(weight), as_vector(bias), moments, count, options, ranks
    )
    if running_mean is not None:
        update_running(running_mean, running_var, moments, count, options)
    return output


# Messages are sent where they stand, not by a graph: torch.compile breaks its graph here. The mark
# is torch.compiler.disable's own, which would import torch's compiler.
sync_batch_norm._torchdynamo_disable = True  # type: ignore[attr-defined]


def _several_rows(input: Any) -> Any:
    """`input`, of which one value per channel is no error where other ranks have more."""
    is_one = isinstance(input, Tensor) and input.dim() > 1 and input.shape[0] == 1
    return input.expand(2, *input.shape[1:]) if is_one else input


class SyncBatchNormFunction(torch.autograd.Function):
    """apply(input, weight, bias, moments, count, options, ranks) -> output.

    `moments` [2, C] are mean and variance of the whole batch, of `count` elements a channel.
    """

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        weight: Tensor | None,
        bias: Tensor | None,
        moments: Tensor,
        count: int,
        options: Options,
        ranks: Ranks,
    ) -> Tensor:
        output, statistics = operators.batch_norm_forward.default(
            input, weight, bias, *moments, False, 0.0, options.eps, options.activation
        )
        ctx.count, ctx.options, ctx.ranks = count, options, ranks
        ctx.bias_dtype = None if bias is None else bias.dtype
        ctx.save_for_backward(input, weight, output if options.activation else None, statistics)
        return output

    @staticmethod
    def backward(ctx: Any, grad_output: Tensor) -> tuple[Tensor | None, ...]:  # type: ignore[override]
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph must be False, as sync_batch_norm has no second derivatives, got True"
            )
        input, weight, output, statistics = ctx.saved_tensors
        activation = ctx.options.activation
        sums = operators.batch_norm_gradient_sums.default(
            grad_output, input, output, statistics, activation
        )
        grad_bias = None if ctx.bias_dtype is None else sums[0].to(ctx.bias_dtype)
        grad_weight = None if weight is None else sums[1].to(weight.dtype)
        grad_input = None
        if ctx.needs_input_grad[0]:
            of_all = sums.clone()
            dist.all_reduce(of_all, dist.ReduceOp.SUM, ctx.ranks.group)
            degrees = ctx.count - ctx.options.correction
            shares = of_all / of_all.new_tensor([[max(1, ctx.count)], [max(1, degrees)]])
            grad_input = operators.batch_norm_input_gradient.default(
                grad_output, input, weight, output, statistics, shares, activation
            )
        return grad_input, grad_weight, grad_bias, None, None, None, None


def _name_of(activation: int) -> str | None:
    return next(name for name, number in ACTIVATIONS.items() if number == activation)


@torch.no_grad()
def _moments_of_all(
    input: Tensor, options: Options, ranks: Ranks, grad_enabled: bool
) -> tuple[Tensor, int]:
    """Mean and variance of all ranks' rows, and how many elements a channel has.

    Ranks whose messages differ in length would wait for each other. So the first one is of one
    length whatever is in it: the elements, what must be equal everywhere and its square, then sums.
    """
    channels = input.shape[1]
    here = input.numel() // max(1, channels)
    mean, variance = operators.batch_norm_statistics.default(input)
    differentiated = grad_enabled and input.requires_grad
    rest = options.correction, options.eps, options.activation, input.dtype, differentiated
    equal = mean.new_tensor([channels, zlib.crc32(repr(rest).encode()) % 2**20])
    sums = here * torch.stack([mean, variance + mean.square()])
    first = sums.new_zeros(2, FIRST_CHANNELS)
    first[:, :channels] = sums[:, :FIRST_CHANNELS]
    message = torch.cat([mean.new_tensor([here]), equal, equal.square(), first.flatten()])
    dist.all_reduce(message, dist.ReduceOp.SUM, ranks.group)
    count, *agreed = (int(value) for value in message[:5].tolist())
    for total, squares in ((agreed[0], agreed[2]), (agreed[1], agreed[3])):
        if total * total != ranks.size * squares:  # equal where their variance is 0
            raise ValueError(
                "the channels of input, its dtype, whether it needs a gradient, correction, eps "
                f"and activation must be the same on every rank, got {channels}, {input.dtype}, "
                f"{differentiated}, {int(options.correction)}, {options.eps} and "
                f"{_name_of(options.activation)!r} on rank {ranks.rank}"
            )
    if count == 1:
        raise ValueError("input must have more than 1 value per channel on all ranks, got 1")
    first = message[5:].view(2, FIRST_CHANNELS)
    sums[:, :FIRST_CHANNELS] = first[:, :channels]
    if channels > FIRST_CHANNELS:
        others = sums[:, FIRST_CHANNELS:].contiguous()
        dist.all_reduce(others, dist.ReduceOp.SUM, ranks.group)
        sums[:, FIRST_CHANNELS:] = others

    total, squares = sums
    mean_of_all = total / max(1, count)
    of_means = total * mean_of_all
    squares = squares - of_means
    if not (of_means <= FAR * squares).all():
        squares = here * (variance + (mean - mean_of_all).square())
        dist.all_reduce(squares, dist.ReduceOp.SUM, ranks.group)
    degrees = max(1.0, count - options.correction)
    return torch.stack([mean_of_all, squares / degrees]), count
