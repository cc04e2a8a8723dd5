"""The loss and the gradients of one training step, found in five ways.

Every backend takes the network's parameters and a minibatch, x int64 [n, K] and y int64 [n] with
n at least 2, and returns the loss (0-d, detached) and the gradient of every parameter. The results
agree to rounding; the backends differ in speed. They normalise with the unbiased variance.
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from makemore_ext import reference
from makemore_ext.fused_mlp import FusedMLP
from makemore_ext.ops.batch_norm import batch_norm
from makemore_ext.ops.cross_entropy import cross_entropy
from makemore_ext.ops.embedding import embedding
from makemore_ext.reference import EPS, Parameters

LossAndGradients = tuple[Tensor, Parameters]
Backend = Callable[[Parameters, Tensor, Tensor], LossAndGradients]


def manual(parameters: Parameters, x: Tensor, y: Tensor) -> LossAndGradients:
    """Exercise 4 as the notebook has it: an [n, V, V] and an [n, n, H] product, a Python loop."""

    def batch_norm_backward(dhpreact: Tensor, hprebn: Tensor, *_: Tensor) -> Tensor:
        return reference.batch_norm_backward_broadcast(dhpreact, hprebn, parameters.bngain)

    return _by_hand(
        parameters,
        x,
        y,
        cross_entropy_backward=reference.cross_entropy_backward_one_hot,
        batch_norm_backward=batch_norm_backward,
        embedding_backward=reference.embedding_backward_loop,
    )


def vectorized(parameters: Parameters, x: Tensor, y: Tensor) -> LossAndGradients:
    """The closed forms of exercises 2 and 3, and the embedding's gradient without a loop.

    They are those of `reference`, without its checks, which would take a tenth of the step, and
    with what the step has computed already.
    """
    n, V = len(y), len(parameters.C)

    def cross_entropy_backward(logits: Tensor, target: Tensor) -> Tensor:
        return (logits.softmax(1) - F.one_hot(target, V)) / n

    def batch_norm_backward(
        dhpreact: Tensor,
        _: Tensor,
        bnraw: Tensor,
        bnvar_inv: Tensor,
        dbngain: Tensor,
        dbnbias: Tensor,
    ) -> Tensor:
        # The formula's two sums are the gradients of the gain and the bias.
        scaled = n * dhpreact - dbnbias - n / (n - 1) * bnraw * dbngain
        return parameters.bngain * bnvar_inv / n * scaled

    def embedding_backward(demb: Tensor, x: Tensor, _: int) -> Tensor:
        dC = torch.zeros_like(parameters.C)
        return dC.index_add_(0, x.flatten(), demb.flatten(0, 1))

    return _by_hand(
        parameters,
        x,
        y,
        cross_entropy_backward=cross_entropy_backward,
        batch_norm_backward=batch_norm_backward,
        embedding_backward=embedding_backward,
    )


@torch.no_grad()
def _by_hand(
    parameters: Parameters,
    x: Tensor,
    y: Tensor,
    *,
    cross_entropy_backward: Callable[[Tensor, Tensor], Tensor],
    batch_norm_backward: Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], Tensor],
    embedding_backward: Callable[[Tensor, Tensor, int], Tensor],
) -> LossAndGradients:
    """Exercise 4's step, with the three backward formulas that have several forms left open."""
    C, W1, b1, W2, b2, bngain, bnbias = parameters

    emb = C[x]
    embcat = emb.flatten(1)
    hprebn = embcat @ W1 + b1
    bnvar, bnmean = torch.var_mean(hprebn, 0, correction=1)
    bnvar_inv = (bnvar + EPS) ** -0.5
    bnraw = (hprebn - bnmean) * bnvar_inv
    h = torch.tanh(bngain * bnraw + bnbias)
    logits = h @ W2 + b2
    loss = F.cross_entropy(logits, y)

    dlogits = cross_entropy_backward(logits, y)
    dW2 = h.T @ dlogits
    db2 = dlogits.sum(0)
    dhpreact = (1 - h**2) * (dlogits @ W2.T)
    dbngain = (bnraw * dhpreact).sum(0)
    dbnbias = dhpreact.sum(0)
    dhprebn = batch_norm_backward(dhpreact, hprebn, bnraw, bnvar_inv, dbngain, dbnbias)
    dW1 = embcat.T @ dhprebn
    db1 = dhprebn.sum(0)
    demb = (dhprebn @ W1.T).view_as(emb)
    dC = embedding_backward(demb, x, C.shape[0])
    return loss, Parameters(C=dC, W1=dW1, b1=db1, W2=dW2, b2=db2, bngain=dbngain, bnbias=dbnbias)


def autograd(parameters: Parameters, x: Tensor, y: Tensor) -> LossAndGradients:
    """Eager torch; the parameters must require grad."""
    return _with_gradients(autograd_loss(parameters, x, y), parameters)


def autograd_loss(parameters: Parameters, x: Tensor, y: Tensor) -> Tensor:
    """The loss in torch's own functions, to be differentiated."""
    C, W1, b1, W2, b2, bngain, bnbias = parameters
    hprebn = torch.addmm(b1, F.embedding(x, C).flatten(1), W1)
    # F.batch_norm takes the biased variance v, which is c times the unbiased one. As
    # sqrt(v / c + EPS) = sqrt(v + c EPS) / sqrt(c), another eps and gain make up for it exactly.
    c = (len(y) - 1) / len(y)
    gain = bngain * math.sqrt(c)
    hpreact = F.batch_norm(hprebn, None, None, gain, bnbias, training=True, eps=EPS * c)
    return F.cross_entropy(torch.addmm(b2, torch.tanh(hpreact), W2), y)


def fused(parameters: Parameters, x: Tensor, y: Tensor) -> LossAndGradients:
    """Eager torch with this package's functions; the parameters must require grad."""
    C, W1, b1, W2, b2, bngain, bnbias = parameters
    hprebn = torch.addmm(b1, embedding(x, C).flatten(1), W1)
    h = batch_norm(
        hprebn, None, None, bngain, bnbias, True, eps=EPS, correction=1, activation="tanh"
    )
    logits = torch.addmm(b2, h, W2)
    return _with_gradients(cross_entropy(logits, y), parameters)


def fused_mlp(parameters: Parameters, x: Tensor, y: Tensor) -> LossAndGradients:
    """One native call. `Trainer` has it take the whole step, and many of them, instead."""
    return FusedMLP.from_parameters(parameters).loss_and_gradients(x, y)


def _with_gradients(loss: Tensor, parameters: Parameters) -> LossAndGradients:
    return loss.detach(), Parameters(*torch.autograd.grad(loss, parameters))


BACKENDS: dict[str, Backend] = {
    "manual": manual,
    "vectorized": vectorized,
    "autograd": autograd,
    "fused": fused,
    "fused_mlp": fused_mlp,
}
