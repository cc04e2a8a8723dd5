"""What a trained network needs and shows on whole sets: its statistics and its loss."""

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_ext.makemore.model import MLP

CHUNK = 4096  # windows at a time: the hidden layer of a whole set need not fit in memory


@torch.no_grad()
def calibrate(model: MLP, x: Tensor) -> None:
    """Set the model's batch norm statistics to those of a whole set, as the notebook does.

    The mean, then the unbiased variance around it, are summed in float64.

    Args:
        model: its `bnmean` and `bnvar` are replaced.
        x: the contexts of the training set, int64 [N, K].

    Raises:
        ValueError: N is below 2.
    """
    if len(x) < 2:
        raise ValueError(f"x must hold at least 2 windows for a variance, got {len(x)}")
    total = torch.zeros(model.hidden, dtype=torch.float64, device=x.device)
    for chunk in x.split(CHUNK):
        total += model.hprebn(chunk).sum(0, dtype=torch.float64)
    mean = total / len(x)
    squares = torch.zeros_like(mean)
    for chunk in x.split(CHUNK):
        squares += (model.hprebn(chunk) - mean).square().sum(0)
    model.bnmean = mean.to(model.C.dtype)
    model.bnvar = (squares / (len(x) - 1)).to(model.C.dtype)


def loss(model: MLP, x: Tensor, y: Tensor) -> float:
    """The mean cross entropy, in nats, of a calibrated model's predictions over a whole set.

    The logits are turned into losses, and these are summed, in float64.

    Args:
        model: calibrated.
        x: the contexts, int64 [N, K].
        y: the characters that follow, int64 [N].

    Raises:
        ValueError: N is 0.
        RuntimeError: the model is not calibrated.
    """
    if not len(x):
        raise ValueError("x must hold at least 1 window, got 0")
    total = 0.0
    for contexts, target in zip(x.split(CHUNK), y.split(CHUNK), strict=True):
        logits = model.logits(contexts).double()
        total += F.cross_entropy(logits, target, reduction="sum").item()
    return total / len(x)
