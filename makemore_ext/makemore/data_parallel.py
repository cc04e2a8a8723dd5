"""The training step of a minibatch that several processes share.

Every rank is given the whole minibatch and takes its own rows. Batch norm hears of the statistics
of all of them, the loss is the sum over a rank's rows divided by the rows of all, and one message
adds up losses and gradients: they are those of one process with the whole minibatch, to rounding,
and the same bits on every rank.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch import distributed as dist

from makemore_ext.makemore.backends import LossAndGradients
from makemore_ext.ops.batch_norm import sync_batch_norm
from makemore_ext.ops.cross_entropy import cross_entropy
from makemore_ext.ops.embedding import embedding
from makemore_ext.ops.ranks import Ranks
from makemore_ext.reference import EPS, Parameters


class Total(torch.autograd.Function):
    """apply(tensor, ranks) -> its sum over the ranks, of whose losses gradients are of the sum."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, ranks: Ranks) -> Tensor:
        ctx.ranks = ranks
        total = tensor.clone()
        dist.all_reduce(total, dist.ReduceOp.SUM, ranks.group)
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        return Total.forward(ctx, grad, ctx.ranks), None


# The sum of the losses of a rank's rows, of `n` on all ranks.
SumOfLosses = Callable[[Parameters, Tensor, Tensor, int, Ranks], Tensor]


def autograd(parameters: Parameters, x: Tensor, y: Tensor, n: int, ranks: Ranks) -> Tensor:
    """In torch's own functions; the sums of batch norm are messages, forward and backward."""
    C, W1, b1, W2, b2, bngain, bnbias = parameters
    hprebn = torch.addmm(b1, F.embedding(x, C).flatten(1), W1)
    bndiff = hprebn - Total.apply(hprebn.sum(0), ranks) / n
    bnvar = Total.apply(bndiff.square().sum(0), ranks) / (n - 1)
    hpreact = bngain * (bndiff * (bnvar + EPS) ** -0.5) + bnbias
    return F.cross_entropy(torch.addmm(b2, torch.tanh(hpreact), W2), y, reduction="sum")


def fused(parameters: Parameters, x: Tensor, y: Tensor, n: int, ranks: Ranks) -> Tensor:
    """In this package's functions."""
    C, W1, b1, W2, b2, bngain, bnbias = parameters
    hprebn = torch.addmm(b1, embedding(x, C).flatten(1), W1)
    h = sync_batch_norm(
        *(hprebn, None, None, bngain, bnbias, True),
        eps=EPS,
        group=ranks.group,
        correction=1,
        activation="tanh",
    )
    return cross_entropy(torch.addmm(b2, h, W2), y, reduction="sum")


LOSSES: dict[str, SumOfLosses] = {"autograd": autograd, "fused": fused}


class DataParallel:
    """A backend, see `backends.py`, of several ranks: `backend` is a key of `LOSSES`.

    Attributes:
        is_interrupted: set before a step where this process is to stop; after the step, whether any
            of the ranks is.
    """

    def __init__(self, backend: str, ranks: Ranks) -> None:
        self._losses = LOSSES[backend]
        self._ranks = ranks
        self.is_interrupted = False

    def __call__(self, parameters: Parameters, x: Tensor, y: Tensor) -> LossAndGradients:
        rank, size = self._ranks.rank, self._ranks.size
        rows = x.tensor_split(size)[rank], y.tensor_split(size)[rank]
        loss = self._losses(parameters, *rows, len(y), self._ranks) / len(y)
        gradients = torch.autograd.grad(loss, parameters)
        interrupted = loss.new_tensor([float(self.is_interrupted)])
        parts = [loss.detach().view(1), interrupted, *gradients]
        message = torch.cat([part.flatten() for part in parts])
        dist.all_reduce(message, dist.ReduceOp.SUM, self._ranks.group)
        total, interrupted, *sums = message.split([part.numel() for part in parts])
        self.is_interrupted = bool(interrupted.item())
        of_all = [part.view_as(like) for part, like in zip(sums, gradients, strict=True)]
        return total.view(()), Parameters(*of_all)
