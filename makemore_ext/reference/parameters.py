"""The network's parameters, and the one constant that is not learnt."""

from typing import NamedTuple

from torch import Tensor

EPS = 1e-5
"""What batch norm adds to the variance."""


class Parameters(NamedTuple):
    """The seven parameters of the network, or their gradients. Float tensors of one dtype.

    V is the number of characters, D the embedding dimensions, H the hidden units.

    Attributes:
        C: Embedding table, [V, D].
        W1: Weight of the hidden layer, [context·D, H].
        b1: Bias of the hidden layer, [H]. Batch norm subtracts it again, so its gradient is 0.
        W2: Weight of the output layer, [H, V].
        b2: Bias of the output layer, [V].
        bngain: Gain of batch norm, [H].
        bnbias: Bias of batch norm, [H].
    """

    C: Tensor
    W1: Tensor
    b1: Tensor
    W2: Tensor
    b2: Tensor
    bngain: Tensor
    bnbias: Tensor
