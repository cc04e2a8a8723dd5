"""Cross entropy of logits that are sharded over the classes, each rank with some of them.

With the names of csrc/cpu/cross_entropy/cross_entropy.cpp, where max, lse and A are of all classes:

    loss = A log_sum + (1 - s) w_t (max - x_t) + s/C sum_c w_c (max - x_c) + z lse^2
    A    = (1 - s) w_t + s/C sum_c w_c

A rank's kernel gives the largest of its logits and the sum of their exponentials. One all_reduce
makes max of them; another adds up the sums, relative to max, and the terms above. All of this is in
double, a few numbers a row. Backward is the kernel of one process, given the statistics of all
classes: nothing is sent. The element at the target is formed apart, in double, as it cancels.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch import distributed as dist

from makemore_ext._native import operators
from makemore_ext.ops.cross_entropy.checks import check_inplace, checked_options
from makemore_ext.ops.cross_entropy.options import MEAN, NONE, Options, class_dim
from makemore_ext.ops.ranks import Ranks, ranks_of
from makemore_ext.ops.tensors import checks_cuda_indices, compute_dtype, is_dtensor

IGNORED = -1  # among the indices into a shard
FIRST_ROWS = 4096  # of the first message
AGREED = (
    *("reduction", "ignore_index", "label_smoothing", "lse_square_scale"),
    *("whether there is a weight", "the bytes of an element", "the number of rows", "targets"),
)


def parallel_cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: str = "mean",
    label_smoothing: float = 0.0,
    *,
    group: Any = None,
    inplace_backward: bool = False,
    return_lse: bool = False,
    lse_square_scale: float = 0.0,
) -> Any:
    """Cross entropy of logits [N, C, d1, ...] of which each rank has some of the C classes.

    The classes of rank 0 come first, those of rank 1 next, and so on; ranks may have different
    numbers of them. Every rank gets the loss of all classes, in the same bits, and the gradient of
    its own logits. Forward sends two messages, an all_reduce each, of 8 bytes a row and of 24, or
    32 with label smoothing; the first is in two parts for more than 4,096 rows, and never shorter
    than for that many. Backward sends none. An all_reduce waits for ranks that do not come, until
    the timeout of the group: that of `torch.distributed.init_process_group`. torch.compile leaves
    all of it out of its graphs.

    Args:
        input: this rank's logits [N, C_local, d1, ...] or [C_local], with at least one class.
        target: class indices among all C [N, d1, ...] or [], the same on every rank.
        weight: the factors of this rank's classes [C_local], of the dtype of `input`, or None.
        ignore_index: as in `cross_entropy`, and so are the next two.
        reduction: "none", "mean" or "sum".
        label_smoothing: in [0, 1].
        group: the torch.distributed process group whose ranks share the classes; None for all.
        inplace_backward: as in `cross_entropy`, and so are the next two.
        return_lse: returns log(sum(exp(input))) over all classes too.
        lse_square_scale: of the z-loss.

    Returns:
        What `cross_entropy` of the logits of all ranks returns.

    Raises:
        IndexError: a target is outside [0, C) and not `ignore_index`; on a CUDA device as
            `cross_entropy` does.
        NotImplementedError: targets are probabilities, or what `cross_entropy` refuses.
        RuntimeError: torch.distributed is not initialized, this process is not in `group`, or what
            `cross_entropy` refuses; in backward, `create_graph` is True.
        ValueError: on every rank where options, dtype or targets are not the same on all, or where
            one has no classes; or what `cross_entropy` refuses.
    """
    ranks = ranks_of(group)
    if is_dtensor(input) or is_dtensor(target) or is_dtensor(weight):
        raise NotImplementedError(
            "input, target and weight must be plain tensors: cross_entropy takes a DTensor"
        )
    if isinstance(weight, Tensor) and weight.numel() != input.shape[class_dim(input)]:
        raise ValueError(
            "weight must have the factors of this rank's classes, "
            f"{input.shape[class_dim(input)]} of them, got {weight.numel()}"
        )
    options = checked_options(
        input, target, weight, ignore_index, reduction, label_smoothing, lse_square_scale
    )
    if target.is_floating_point():
        raise NotImplementedError(
            f"target must hold class indices, int64 or uint8, got probabilities ({target.dtype})"
        )
    if inplace_backward:
        check_inplace(input)
    if weight is not None:
        weight = weight.to(compute_dtype(input))
    loss, lse = ParallelCrossEntropyFunction.apply(
        input, target, weight, options, ranks, inplace_backward
    )
    if not torch.is_autocast_enabled(input.device.type):
        loss = loss.to(input.dtype)
    return (loss, lse) if return_lse else loss


# Messages are sent where they stand, not by a graph: torch.compile breaks its graph here. The mark
# is torch.compiler.disable's own, which would import torch's compiler.
parallel_cross_entropy._torchdynamo_disable = True  # type: ignore[attr-defined]


class _Shard(NamedTuple):
    """Where the classes of this rank lie among all of them."""

    start: int
    size: int
    classes: int


class ParallelCrossEntropyFunction(torch.autograd.Function):
    """apply(input, target, weight, options, ranks, inplace_backward) -> loss, lse."""

    @staticmethod
    def forward(
        ctx: Any,
        input: Tensor,
        target: Tensor,
        weight: Tensor | None,
        options: Options,
        ranks: Ranks,
        inplace_backward: bool,
    ) -> tuple[Tensor, Tensor]:
        dim, smoothing = class_dim(input), options.label_smoothing
        sizes = target.shape
        known = _of_shard(input, weight, smoothing, sizes) if input.shape[dim] > 0 else None
        largest_here = known.largest if known else input.new_full(sizes, -torch.inf).double()
        largest, shard = _all_largest(largest_here, input, target, weight, options, ranks)
        assert known is not None  # else there was an error

        target = target.long()
        valid = target != options.ignore_index
        outside = valid & ((target < 0) | (target >= shard.classes))
        if (not input.is_cuda or checks_cuda_indices()) and outside.any():
            raise IndexError(f"Target {target[outside][0].item()} is out of bounds.")
        index = target - shard.start
        here = valid & (index >= 0) & (index < shard.size)
        index = torch.where(here, index, 0)

        at_target = input.gather(dim, index.unsqueeze(dim)).squeeze(dim).double()
        target_weight = here.double()
        if weight is not None:
            target_weight = torch.where(here, weight[index].double(), 0.0)
        scale = torch.where(known.largest == largest, 1.0, (known.largest - largest).exp())
        sums = [
            torch.where(scale == 0, 0.0, known.sum_exp * scale),
            torch.where(target_weight == 0, 0.0, target_weight * (largest - at_target)),
            target_weight,
        ]
        if smoothing > 0:
            sums.append(known.below_largest + known.weights * (largest - known.largest))
        sum_exp, on_target, target_weight, *rest = _all_sums(sums, known.weights, ranks)

        on_target = (1 - smoothing) * on_target
        mass = (1 - smoothing) * target_weight
        if smoothing > 0:
            below_largest, weights = rest
            on_target = on_target + smoothing / shard.classes * below_largest
            mass = mass + smoothing / shard.classes * weights
        log_sum = sum_exp.log()
        lse = largest + log_sum
        rows = mass * log_sum + on_target + options.lse_square_scale * lse * lse
        rows = torch.where(outside, torch.nan, torch.where(valid, rows, 0.0))

        divisor = torch.where(valid, target_weight, 0.0).sum()
        divisor = torch.where(divisor == 0, torch.nan, divisor)  # of no weight there is no mean
        loss = rows if options.reduction == NONE else rows.sum()
        loss = loss / divisor if options.reduction == MEAN else loss

        ctx.options, ctx.shard, ctx.inplace_backward = options, shard, inplace_backward
        ctx.set_materialize_grads(False)
        marks = torch.stack([valid, here, outside])
        statistics = torch.stack([largest, sum_exp, mass])
        ctx.save_for_backward(input, index, marks, weight, statistics, divisor)
        dtype = compute_dtype(input)
        return loss.to(dtype), lse.to(dtype)

    @staticmethod
    def backward(
        ctx: Any, grad_loss: Tensor | None, grad_lse: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "create_graph must be False, as parallel_cross_entropy has no second derivatives, "
                "got True"
            )
        if grad_loss is None and grad_lse is None:
            return (None,) * 6
        input, index, marks, weight, statistics, divisor = ctx.saved_tensors
        (valid, here, outside), options, dim = marks, ctx.options, class_dim(input)
        upstream = torch.zeros_like(statistics[0])
        if grad_loss is not None:
            upstream = upstream + grad_loss.double()
        if options.reduction == MEAN:
            upstream = upstream / divisor
        upstream = torch.where(valid, upstream, 0.0)
        upstream = torch.where(outside, torch.nan, upstream)

        place = index.unsqueeze(dim)
        largest, sum_exp, mass = statistics
        p = (input.gather(dim, place).squeeze(dim).double() - largest).exp() / sum_exp
        lse = largest + sum_exp.log()
        on_softmax = upstream * (mass + 2 * options.lse_square_scale * lse)
        if grad_lse is not None:
            on_softmax = on_softmax + grad_lse.double()
        share = (1 - options.label_smoothing) * here.double()
        share = share + options.label_smoothing / ctx.shard.classes
        share = share if weight is None else share * weight[index]
        at_index = (on_softmax * p - upstream * share).to(input.dtype)

        # The kernel spreads its smoothing over the classes here.
        smoothing = options.label_smoothing * ctx.shard.size / ctx.shard.classes
        dtype = compute_dtype(input)
        call = (
            upstream.to(dtype),
            None if grad_lse is None else grad_lse.contiguous(),
            input,
            torch.where(valid, index, IGNORED),
            weight,
            statistics,
            torch.ones_like(divisor),
            *(NONE, IGNORED, smoothing, options.lse_square_scale),
        )
        if ctx.inplace_backward:
            operators.cross_entropy_backward_.default(*call)
            torch.autograd.graph.increment_version(input)
            gradient = input.detach()
        else:
            gradient = operators.cross_entropy_backward.default(*call)
        of_ignored = gradient.gather(dim, place)
        at_index = torch.where(valid.unsqueeze(dim), at_index.unsqueeze(dim), of_ignored)
        _as_bits(gradient).scatter_(dim, place, _as_bits(at_index))
        return gradient, *[None] * 5


def _as_bits(tensor: Tensor) -> Tensor:
    """Of 16 bits as an integer: scatter_ makes float32 of all elements of a narrow tensor."""
    return tensor.view(torch.int16) if tensor.element_size() == 2 else tensor


class _OfShard(NamedTuple):
    """Of each row: the largest logit, sum(exp(x - largest)), sum(w (largest - x)); sum(w)."""

    largest: Tensor
    sum_exp: Tensor
    below_largest: Tensor
    weights: Tensor


def _of_shard(
    input: Tensor, weight: Tensor | None, label_smoothing: float, sizes: torch.Size
) -> _OfShard:
    """What the kernel says of this rank's classes.

    With all of the target spread over them its loss is the mean of w (lse - x).
    """
    classes = input.shape[class_dim(input)]
    spread = 1.0 if label_smoothing > 0 else 0.0
    any_target = torch.zeros(sizes, dtype=torch.int64, device=input.device)
    loss, (largest, sum_exp, _), _, _ = operators.cross_entropy_forward.default(
        input, any_target, weight, NONE, IGNORED, spread, 0.0
    )
    ones = largest.new_tensor(float(classes))
    weights = ones if weight is None else weight.double().sum()
    below_largest = classes * loss.double() - weights * sum_exp.log()
    return _OfShard(largest, sum_exp, below_largest, weights)


def _all_largest(
    largest: Tensor,
    input: Tensor,
    target: Tensor,
    weight: Tensor | None,
    options: Options,
    ranks: Ranks,
) -> tuple[Tensor, _Shard]:
    """The largest logit of all ranks, and where the shard lies; sees that ranks agree.

    Ranks whose messages differ in length would wait for each other. So the first one is of one
    length whatever is in it: what must be equal everywhere, which is where its maximum is its
    minimum, then the classes of each rank, then rows.
    """
    size = input.shape[class_dim(input)]
    rows = largest.flatten()
    is_weighted = 0.0 if weight is None else 1.0
    known = rows.new_tensor([*options, is_weighted, input.element_size(), len(rows)])
    equal = torch.cat([known, _checksum(target).view(1)])
    sizes = rows.new_zeros(ranks.size)
    sizes[ranks.rank] = size
    message = torch.cat([equal, -equal, sizes, rows[:FIRST_ROWS]])
    length = 2 * len(equal) + ranks.size + FIRST_ROWS
    message = torch.cat([message, rows.new_full((length - len(message),), -torch.inf)])
    dist.all_reduce(message, dist.ReduceOp.MAX, ranks.group)
    most, least, sizes, first = message.split([len(equal), len(equal), ranks.size, FIRST_ROWS])
    if not torch.equal(most, -least):
        found = zip(AGREED, (-least).tolist(), most.tolist(), strict=True)
        differ = [f"{name} from {low:g} to {high:g}" for name, low, high in found if low != high]
        raise ValueError(
            f"{', '.join(AGREED)} must be the same on every rank, got {', '.join(differ)}"
        )
    counts = [int(count) for count in sizes.tolist()]
    if min(counts) == 0:
        raise ValueError(f"input must have at least 1 class on every rank, got {counts}")
    if len(rows) > FIRST_ROWS:
        rest = rows[FIRST_ROWS:].clone()
        dist.all_reduce(rest, dist.ReduceOp.MAX, ranks.group)
        first = torch.cat([first, rest])
    shard = _Shard(sum(counts[: ranks.rank]), size, sum(counts))
    return first[: len(rows)].view_as(largest), shard


def _checksum(target: Tensor) -> Tensor:
    places = torch.arange(1, target.numel() + 1, device=target.device)
    return ((target.long().flatten() * places).sum() % 2**50).double()


def _all_sums(rows: list[Tensor], weights: Tensor, ranks: Ranks) -> list[Tensor]:
    """The sums over all ranks: of each of `rows`, and of `weights`, which comes last."""
    message = torch.cat([*[row.flatten() for row in rows], weights.view(1)])
    dist.all_reduce(message, dist.ReduceOp.SUM, ranks.group)
    *sums, total = message.split([*[row.numel() for row in rows], 1])
    return [*[part.view_as(row) for part, row in zip(sums, rows, strict=True)], total.view(())]
