"""Exercise 1: forward in twenty atomic steps, and backward through every one of them."""

from types import SimpleNamespace

import torch
from torch import Tensor
from torch.nn.functional import one_hot

from makemore_ext.reference.checks import check_network
from makemore_ext.reference.embedding import embedding_backward_loop
from makemore_ext.reference.parameters import EPS, Parameters


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
    check_network(parameters, x, y)
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
    check_network(parameters, x, y)
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
