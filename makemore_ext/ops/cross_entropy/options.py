"""What the operators of cross entropy are told beside tensors, and where they find the classes."""

from typing import NamedTuple

from torch import Tensor

REDUCTIONS = {"none": 0, "mean": 1, "sum": 2}  # torch's numbering
NONE, MEAN = REDUCTIONS["none"], REDUCTIONS["mean"]


class Options(NamedTuple):
    """The arguments that are not tensors, in their order."""

    reduction: int
    ignore_index: int
    label_smoothing: float
    lse_square_scale: float


def class_dim(input: Tensor) -> int:
    """The dimension of the classes, the only one of a single row."""
    return 0 if input.dim() == 1 else 1
