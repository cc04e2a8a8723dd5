"""Exercise 2: cross entropy backward in one expression."""

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from makemore_ext.reference.checks import check_cross_entropy


def cross_entropy_backward(logits: Tensor, target: Tensor) -> Tensor:
    """Gradient of the mean cross entropy with respect to the logits: (softmax - onehot) / n.

    The lecture's closed form. With z the logits of a row, p = softmax(z) and t its target, the
    loss of the row is -log pₜ = -zₜ + log Σⱼ exp(zⱼ). Its derivative with respect to zⱼ is
    -1 if j = t, plus exp(zⱼ) / Σₖ exp(zₖ) = pⱼ; the mean over n rows gives the factor 1/n.

    Args:
        logits: Float [n, V].
        target: int64 [n], 0 <= target < V.

    Returns:
        dlogits, [n, V].

    Raises:
        ValueError: A shape does not fit.
        TypeError: target is not int64.
        IndexError: target holds an index outside 0 … V-1.
    """
    check_cross_entropy(logits, target)
    n, V = logits.shape
    return (logits.softmax(1) - one_hot(target, V)) / n


def cross_entropy_backward_one_hot(logits: Tensor, target: Tensor) -> Tensor:
    """`cross_entropy_backward` as a sum over the rows of the softmax's Jacobian, [n, V, V].

    The longer form of the notebook. With o the one-hot target, the loss of a row is
    -Σₖ oₖ log pₖ. The quotient rule on pₖ = exp(zₖ) / Σ gives ∂pₖ/∂zⱼ = pₖ (δₖⱼ - pⱼ), and
    log' = 1/p gives ∂log pₖ/∂zⱼ = δₖⱼ - pⱼ = (δₖⱼ/pₖ - 1) pⱼ, so that
    dzⱼ = -1/n Σₖ oₖ (δₖⱼ/pₖ - 1) pⱼ. Since o picks the one row k = t, this is (pⱼ - δₜⱼ) / n: the
    closed form.

    It divides by every probability, so a row in which one underflows to 0 becomes NaN.

    Args:
        logits: Float [n, V].
        target: int64 [n], 0 <= target < V.

    Returns:
        dlogits, [n, V].

    Raises:
        ValueError: A shape does not fit.
        TypeError: target is not int64.
        IndexError: target holds an index outside 0 … V-1.
    """
    check_cross_entropy(logits, target)
    n, V = logits.shape
    p = logits.softmax(1)
    eye = torch.eye(V, dtype=p.dtype, device=p.device)
    # Dimension 1 is k, which is summed; dimension 2 is j.
    o = one_hot(target, V).unsqueeze(2)
    return -(o * (eye / p.unsqueeze(2) - 1) * p.unsqueeze(1)).sum(1) / n
