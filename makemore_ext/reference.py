"""The network and its gradients, one formula at a time, in plain torch.

Read from top to bottom: the forward pass in twenty atomic steps, the backward pass through every
one of them (exercise 1), cross entropy (exercise 2) and batch norm (exercise 3) backward in one
expression each, and the gradient of an embedding. The exercises are those of part 4 of "makemore",
the lecture on backpropagation by hand.

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

from itertools import product
from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import one_hot

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


# Exercise 1: every step by itself


def forward(parameters: Parameters, x: Tensor, y: Tensor) -> dict[str, Tensor]:
    """Compute the loss in twenty atomic steps.

    Args:
        parameters: The network.
        x: Indices of the preceding characters, int64 [n, context], n >= 2.
        y: Index of the character that follows, int64 [n].

    Returns:
        The result of each step by its name, in the order of computation; the last is ``loss``, the
        mean cross entropy in nats, a scalar. What is reduced keeps its dimension: ``bnmeani`` is
        [1, H], ``counts_sum`` [n, 1].

    Raises:
        ValueError: A shape does not fit, or n < 2.
        TypeError: x or y is not int64.
        IndexError: x or y holds an index outside 0 … V-1.
    """
    _check_network(parameters, x, y)
    C, W1, b1, W2, b2, bngain, bnbias = parameters
    n = len(x)

    emb = C[x]
    embcat = emb.flatten(1)
    hprebn = embcat @ W1 + b1

    # Batch norm, with the unbiased variance: n values around their own mean have n-1 degrees of
    # freedom.
    bnmeani = 1 / n * hprebn.sum(0, keepdim=True)
    bndiff = hprebn - bnmeani
    bndiff2 = bndiff**2
    bnvar = 1 / (n - 1) * bndiff2.sum(0, keepdim=True)
    bnvar_inv = (bnvar + EPS) ** -0.5
    bnraw = bndiff * bnvar_inv
    hpreact = bngain * bnraw + bnbias

    h = torch.tanh(hpreact)
    logits = h @ W2 + b2

    # Cross entropy. Subtracting the maximum leaves the probabilities as they are and keeps exp()
    # from overflowing.
    logit_maxes = logits.max(1, keepdim=True).values
    norm_logits = logits - logit_maxes
    counts = norm_logits.exp()
    counts_sum = counts.sum(1, keepdim=True)
    # A power, not 1 / counts_sum: the backward pass of a power rounds as written below.
    counts_sum_inv = counts_sum**-1
    probs = counts * counts_sum_inv
    logprobs = probs.log()
    loss = -logprobs.gather(1, y.unsqueeze(1)).mean()

    return {
        "emb": emb,
        "embcat": embcat,
        "hprebn": hprebn,
        "bnmeani": bnmeani,
        "bndiff": bndiff,
        "bndiff2": bndiff2,
        "bnvar": bnvar,
        "bnvar_inv": bnvar_inv,
        "bnraw": bnraw,
        "hpreact": hpreact,
        "h": h,
        "logits": logits,
        "logit_maxes": logit_maxes,
        "norm_logits": norm_logits,
        "counts": counts,
        "counts_sum": counts_sum,
        "counts_sum_inv": counts_sum_inv,
        "probs": probs,
        "logprobs": logprobs,
        "loss": loss,
    }


def backward(
    parameters: Parameters, x: Tensor, y: Tensor, steps: dict[str, Tensor]
) -> dict[str, Tensor]:
    """Compute the gradient of every step and of every parameter, from the loss back to C.

    Args:
        parameters: The network, as given to `forward`.
        x: Indices of the preceding characters, int64 [n, context].
        y: Index of the character that follows, int64 [n].
        steps: What `forward` returned for them.

    Returns:
        The 26 gradients by the name of what they belong to, in the order of computation. Each has
        the shape of what it belongs to.

    Raises:
        ValueError: A shape does not fit, or n < 2.
        TypeError: x or y is not int64.
        IndexError: x or y holds an index outside 0 … V-1.
    """
    _check_network(parameters, x, y)
    C, W1, _, W2, _, bngain, _ = parameters
    s = SimpleNamespace(**steps)
    n, V = s.logits.shape

    # loss = -1/n · Σᵢ logprobs[i, yᵢ]: only the n target entries take part, each with -1/n.
    dlogprobs = -1 / n * one_hot(y, V).to(s.logprobs.dtype)
    # logprobs = log(probs), and log'(p) = 1/p.
    dprobs = dlogprobs / s.probs
    # probs = counts · counts_sum_inv, one inverse for a whole row: its gradient sums over the row.
    dcounts_sum_inv = (dprobs * s.counts).sum(1, keepdim=True)
    # counts_sum_inv = counts_sum⁻¹, and (s⁻¹)' = -s⁻².
    dcounts_sum = -(s.counts_sum**-2) * dcounts_sum_inv
    # counts is used twice: in the product probs, and in counts_sum, which hands its gradient on to
    # every entry of the row.
    dcounts = s.counts_sum_inv * dprobs + dcounts_sum
    # counts = exp(norm_logits), and exp' = exp, which is counts.
    dnorm_logits = s.counts * dcounts
    # norm_logits = logits - logit_maxes, one maximum for a whole row. The sum is 0 but for
    # rounding, since the loss does not depend on what is subtracted.
    dlogit_maxes = -dnorm_logits.sum(1, keepdim=True)
    # logits is used twice: with factor 1 in norm_logits, and in the maximum, which is a copy of one
    # entry of its row. Of equal maxima it is the one that max() names.
    dlogits = dnorm_logits + one_hot(s.logits.max(1).indices, V) * dlogit_maxes

    # logits = h @ W2 + b2: the matrix product, and a bias that every row uses.
    dh = dlogits @ W2.T
    dW2 = s.h.T @ dlogits
    db2 = dlogits.sum(0)
    # h = tanh(hpreact), and tanh' = 1 - tanh².
    dhpreact = (1 - s.h**2) * dh

    # hpreact = bngain · bnraw + bnbias: every row uses the same gain and bias, so theirs are sums
    # over the rows.
    dbngain = (s.bnraw * dhpreact).sum(0)
    dbnbias = dhpreact.sum(0)
    dbnraw = bngain * dhpreact
    # bnraw = bndiff · bnvar_inv, again one bnvar_inv for all rows. (bndiff follows below.)
    dbnvar_inv = (s.bndiff * dbnraw).sum(0, keepdim=True)
    # bnvar_inv = (bnvar + ε)^-½, and (v^-½)' = -½ · v^-1½.
    dbnvar = -0.5 * (s.bnvar + EPS) ** -1.5 * dbnvar_inv
    # bnvar = 1/(n-1) · Σᵢ bndiff2[i]: every row gets the same gradient.
    dbndiff2 = (1 / (n - 1) * dbnvar).expand_as(s.bndiff2)
    # bndiff is used twice: squared in bndiff2, with (d²)' = 2d, and in the product bnraw.
    dbndiff = 2 * s.bndiff * dbndiff2 + s.bnvar_inv * dbnraw
    # bndiff = hprebn - bnmeani, one mean for all rows, with factor -1.
    dbnmeani = -dbndiff.sum(0, keepdim=True)
    # hprebn is used twice: with factor 1 in bndiff, and in bnmeani = 1/n · Σᵢ hprebn[i].
    dhprebn = dbndiff + 1 / n * dbnmeani

    # hprebn = embcat @ W1 + b1: the matrix product and its bias again.
    dembcat = dhprebn @ W1.T
    dW1 = s.embcat.T @ dhprebn
    db1 = dhprebn.sum(0)
    # embcat holds the same numbers as emb, in another shape.
    demb = dembcat.view_as(s.emb)
    # emb = C[x]: a row of C collects the gradients of all places where its character stands.
    dC = embedding_backward_loop(demb, x, len(C))

    return {
        "logprobs": dlogprobs,
        "probs": dprobs,
        "counts_sum_inv": dcounts_sum_inv,
        "counts_sum": dcounts_sum,
        "counts": dcounts,
        "norm_logits": dnorm_logits,
        "logit_maxes": dlogit_maxes,
        "logits": dlogits,
        "h": dh,
        "W2": dW2,
        "b2": db2,
        "hpreact": dhpreact,
        "bngain": dbngain,
        "bnbias": dbnbias,
        "bnraw": dbnraw,
        "bnvar_inv": dbnvar_inv,
        "bnvar": dbnvar,
        "bndiff2": dbndiff2,
        "bndiff": dbndiff,
        "bnmeani": dbnmeani,
        "hprebn": dhprebn,
        "embcat": dembcat,
        "W1": dW1,
        "b1": db1,
        "emb": demb,
        "C": dC,
    }


# Exercise 2: cross entropy in one expression


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
    _check_cross_entropy(logits, target)
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
    _check_cross_entropy(logits, target)
    n, V = logits.shape
    p = logits.softmax(1)
    eye = torch.eye(V, dtype=p.dtype, device=p.device)
    # Dimension 1 is k, which is summed; dimension 2 is j.
    o = one_hot(target, V).unsqueeze(2)
    return -(o * (eye / p.unsqueeze(2) - 1) * p.unsqueeze(1)).sum(1) / n


# Exercise 3: batch norm in one expression


def batch_norm_forward(hprebn: Tensor, bngain: Tensor, bnbias: Tensor, eps: float = EPS) -> Tensor:
    """Batch norm over the rows, with their unbiased variance (Ioffe & Szegedy, arXiv:1502.03167).

    Args:
        hprebn: Float [n, H], n >= 2.
        bngain: [H].
        bnbias: [H].
        eps: Added to the variance.

    Returns:
        hpreact, [n, H].

    Raises:
        ValueError: A shape does not fit, or n < 2.
    """
    _check_batch_norm(hprebn, bngain, bnbias=bnbias)
    return bngain * _normalise(hprebn, eps)[0] + bnbias


def batch_norm_backward(
    dhpreact: Tensor, hprebn: Tensor, bngain: Tensor, eps: float = EPS
) -> Tensor:
    """Gradient of batch norm with respect to its input, the lecture's closed form.

    For one column, with g = dhpreact, mean μ, σ = √(var + ε) and r = (hprebn - μ)/σ:

    - The product rule on rᵢ = (hprebnᵢ - μ) · σ⁻¹ needs ∂μ/∂hprebnⱼ = 1/n and ∂σ⁻¹/∂hprebnⱼ =
      -½ σ⁻³ ∂var/∂hprebnⱼ. In ∂var/∂hprebnⱼ = 2/(n-1) · (hprebnⱼ - μ) the mean's own dependence on
      hprebnⱼ drops out, since the differences from the mean sum to 0.
    - Together ∂rᵢ/∂hprebnⱼ = (δᵢⱼ - 1/n - rᵢ rⱼ/(n-1)) / σ. With hpreact = bngain · r + bnbias and
      the sum over the uses i of hprebnⱼ,
      dhprebnⱼ = bngain/σ · (gⱼ - 1/n Σᵢ gᵢ - 1/(n-1) rⱼ Σᵢ gᵢ rᵢ). Below, 1/n is factored out.

    Args:
        dhpreact: Gradient of the output, [n, H], n >= 2.
        hprebn: The input, [n, H].
        bngain: [H].
        eps: Added to the variance.

    Returns:
        dhprebn, [n, H].

    Raises:
        ValueError: A shape does not fit, or n < 2.
    """
    _check_batch_norm(hprebn, bngain, dhpreact=dhpreact)
    n = len(hprebn)
    bnraw, bnvar_inv = _normalise(hprebn, eps)
    return (
        bngain
        * bnvar_inv
        / n
        * (n * dhpreact - dhpreact.sum(0) - n / (n - 1) * bnraw * (dhpreact * bnraw).sum(0))
    )


def batch_norm_backward_broadcast(
    dhpreact: Tensor, hprebn: Tensor, bngain: Tensor, eps: float = EPS
) -> Tensor:
    """`batch_norm_backward` through the Jacobian of every column, [n, n, H].

    The notebook's own form. It takes ∂rᵢ/∂hprebnⱼ = (δᵢⱼ - 1/n - rᵢ rⱼ/(n-1)) / σ as derived there
    and leaves the sum over i as it stands:
    dhprebnⱼ = bngain/σ · (gⱼ - Σᵢ (1/n + rⱼ rᵢ/(n-1)) gᵢ).

    Args:
        dhpreact: Gradient of the output, [n, H], n >= 2.
        hprebn: The input, [n, H].
        bngain: [H].
        eps: Added to the variance.

    Returns:
        dhprebn, [n, H].

    Raises:
        ValueError: A shape does not fit, or n < 2.
    """
    _check_batch_norm(hprebn, bngain, dhpreact=dhpreact)
    n = len(hprebn)
    bnraw, bnvar_inv = _normalise(hprebn, eps)
    # Dimension 0 is j; dimension 1 is i, which is summed.
    shared = 1 / n + 1 / (n - 1) * bnraw.unsqueeze(1) * bnraw
    return bngain * bnvar_inv * (dhpreact - (shared * dhpreact).sum(1))


def _normalise(hprebn: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """Return bnraw [n, H] and bnvar_inv [H]."""
    bnvar_inv = (hprebn.var(0, correction=1) + eps) ** -0.5
    return (hprebn - hprebn.mean(0)) * bnvar_inv, bnvar_inv


# The gradient of an embedding


def embedding_backward_loop(demb: Tensor, x: Tensor, vocabulary_size: int) -> Tensor:
    """Gradient of C in emb = C[x], place by place.

    emb[i, k] is a copy of the row x[i, k] of C, so that row collects demb[i, k]: a sum, since a
    character stands in many places.

    Args:
        demb: Gradient of emb, float [n, context, D].
        x: Indices, int64 [n, context].
        vocabulary_size: Number of rows of C.

    Returns:
        dC, [vocabulary_size, D].

    Raises:
        ValueError: demb's shape is not x's with one more dimension, or x is not [n, context].
        TypeError: x is not int64.
        IndexError: x holds an index outside 0 … vocabulary_size-1.
    """
    _check_dimensions("x", x, "[n, context]")
    _check_embedding(demb, x, vocabulary_size)
    dC = demb.new_zeros(vocabulary_size, demb.shape[-1])
    for i, k in product(range(x.shape[0]), range(x.shape[1])):
        dC[x[i, k]] += demb[i, k]
    return dC


def embedding_backward(demb: Tensor, x: Tensor, vocabulary_size: int) -> Tensor:
    """`embedding_backward_loop` in one call: the places in a row, added by their index.

    Args:
        demb: Gradient of emb, float [..., D].
        x: Indices, int64 [...].
        vocabulary_size: Number of rows of C.

    Returns:
        dC, [vocabulary_size, D].

    Raises:
        ValueError: demb's shape is not x's with one more dimension.
        TypeError: x is not int64.
        IndexError: x holds an index outside 0 … vocabulary_size-1.
    """
    _check_embedding(demb, x, vocabulary_size)
    D = demb.shape[-1]
    # An index that occurs twice is added twice; dC[x] += demb would keep only one of them.
    dC = demb.new_zeros(vocabulary_size, D)
    return dC.index_add_(0, x.flatten(), demb.reshape(x.numel(), D))


# What may be given


def _check_network(parameters: Parameters, x: Tensor, y: Tensor) -> None:
    _check_dimensions("x", x, "[n, context]")
    _check_dimensions("C", parameters.C, "[V, D]")
    n, context = x.shape
    V, D = parameters.C.shape
    H = parameters.b1.numel()
    shapes = ([V, D], [context * D, H], [H], [H, V], [V], [H], [H])
    for name, parameter, shape in zip(Parameters._fields, parameters, shapes, strict=True):
        _check_shape(name, parameter, shape)
    _check_shape("y", y, [n])
    _check_batch_size("x", n)
    _check_indices("x", x, V)
    _check_indices("y", y, V)


def _check_cross_entropy(logits: Tensor, target: Tensor) -> None:
    _check_dimensions("logits", logits, "[n, V]")
    n, V = logits.shape
    _check_shape("target", target, [n])
    _check_indices("target", target, V)


def _check_batch_norm(
    hprebn: Tensor, bngain: Tensor, *, bnbias: Tensor | None = None, dhpreact: Tensor | None = None
) -> None:
    _check_dimensions("hprebn", hprebn, "[n, H]")
    n, H = hprebn.shape
    _check_shape("bngain", bngain, [H])
    if bnbias is not None:
        _check_shape("bnbias", bnbias, [H])
    if dhpreact is not None:
        _check_shape("dhpreact", dhpreact, [n, H])
    _check_batch_size("hprebn", n)


def _check_embedding(demb: Tensor, x: Tensor, vocabulary_size: int) -> None:
    if demb.dim() == 0 or demb.shape[:-1] != x.shape:
        raise ValueError(
            f"demb: must be of x's shape {[*x.shape]} and one more dimension, got {[*demb.shape]}"
        )
    _check_indices("x", x, vocabulary_size)


def _check_dimensions(name: str, tensor: Tensor, dimensions: str) -> None:
    if tensor.dim() != 2:
        raise ValueError(f"{name}: must be of shape {dimensions}, got {[*tensor.shape]}")


def _check_shape(name: str, tensor: Tensor, shape: list[int]) -> None:
    if [*tensor.shape] != shape:
        raise ValueError(f"{name}: must be of shape {shape}, got {[*tensor.shape]}")


def _check_batch_size(name: str, n: int) -> None:
    if n < 2:
        raise ValueError(f"{name}: must have at least 2 rows for an unbiased variance, got {n}")


def _check_indices(name: str, indices: Tensor, size: int) -> None:
    if indices.dtype != torch.int64:
        raise TypeError(f"{name}: must be int64, got {indices.dtype}")
    outside = indices[(indices < 0) | (indices >= size)]
    if len(outside):
        raise IndexError(f"{name}: must hold 0 to {size - 1}, got {outside[0]}")
