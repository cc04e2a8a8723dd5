"""The network and its gradients, one formula at a time, in plain torch.

Read its files in this order, from top to bottom. The exercises are those of part 4 of "makemore",
the lecture on backpropagation by hand.

- `exercise_1_every_step.py`: the forward pass in twenty atomic steps, and the backward pass through
  every one of them
- `exercise_2_cross_entropy.py`: cross entropy backward in one expression
- `exercise_3_batch_norm.py`: batch norm backward in one expression
- `embedding.py`: the gradient of an embedding

Everywhere ``dX`` is the gradient of the loss with respect to ``X`` and has X's shape. Three rules
give every formula:

- chain rule: ``Y = f(X)`` element by element has ``dX = f'(X) · dY``.
- sums: a value that is used several times collects the sum of the gradients of its uses. So what
  the forward pass broadcast, the backward pass sums, and what it summed, the backward pass
  broadcasts.
- matrix product: ``Y = A @ B`` has ``dA = dY @ B.T`` and ``dB = A.T @ dY``. (Y[i,j] is the sum over
  k of A[i,k]·B[k,j], so A[i,k] collects dY[i,j]·B[k,j] over j, and B[k,j] collects A[i,k]·dY[i,j]
  over i.)
"""

from makemore_ext.reference.embedding import embedding_backward, embedding_backward_loop
from makemore_ext.reference.exercise_1_every_step import backward, forward
from makemore_ext.reference.exercise_2_cross_entropy import (
    cross_entropy_backward,
    cross_entropy_backward_one_hot,
)
from makemore_ext.reference.exercise_3_batch_norm import (
    batch_norm_backward,
    batch_norm_backward_broadcast,
    batch_norm_forward,
)
from makemore_ext.reference.parameters import EPS, Parameters

__all__ = [
    "EPS",
    "Parameters",
    "backward",
    "batch_norm_backward",
    "batch_norm_backward_broadcast",
    "batch_norm_forward",
    "cross_entropy_backward",
    "cross_entropy_backward_one_hot",
    "embedding_backward",
    "embedding_backward_loop",
    "forward",
]
