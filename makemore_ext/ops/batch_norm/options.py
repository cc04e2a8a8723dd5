"""What the operators of batch norm are told beside tensors."""

from typing import NamedTuple

ACTIVATIONS = {None: 0, "tanh": 1, "relu": 2}


class Options(NamedTuple):
    """The arguments that are not tensors."""

    training: bool
    momentum: float
    correction: float
    eps: float
    activation: int  # of ACTIVATIONS
