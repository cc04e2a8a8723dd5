"""The plain forms of the operations: against torch in float64, and the kernels against them."""

import pytest
import torch
from native_library import plain_batch_norm, plain_cross_entropy, plain_embedding
from support import seeded
from torch.nn import functional as F

import makemore_ext as mx

ACTIVATIONS = {None: lambda z: z, "tanh": torch.tanh, "relu": torch.relu}
NUMBERS = {None: 0, "tanh": 1, "relu": 2}
EPS = 1e-5
CLOSE = {torch.float64: 1e-12, torch.float32: 2e-5}
SHAPES = [(5, 3), (40, 17), (3, 4, 5), (2, 33, 3, 7)]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(sum(shape)))


def normalized(x, weight, bias, correction, activation):
    dims = [0, *range(2, x.dim())]
    mean, var = x.mean(dims, keepdim=True), x.var(dims, correction=correction, keepdim=True)
    scale, shift = (v.view(1, -1, *[1] * (x.dim() - 2)) for v in (weight, bias))
    return ACTIVATIONS[activation]((x - mean) / (var + EPS).sqrt() * scale + shift)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_is_its_formula(shape, correction, activation):
    x, grad = drawn(*shape), drawn(*shape).flip(0)
    weight, bias = drawn(shape[1]), drawn(shape[1]).flip(0)
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
    y = normalized(*inputs, correction, activation)
    expected = (y, *torch.autograd.grad(y, inputs, grad))
    options = {"correction": correction, "eps": EPS, "activation": NUMBERS[activation]}
    plain = plain_batch_norm(x, grad, weight, bias, **options)
    actual = [plain[name] for name in ("y", "dx", "dweight", "dbias")]
    torch.testing.assert_close(actual, list(expected), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_batch_norm_is_its_plain_form(shape, dtype, activation, training):
    x, grad = drawn(*shape).to(dtype), drawn(*shape).flip(0).to(dtype)
    weight, bias = drawn(shape[1]).to(dtype), drawn(shape[1]).flip(0).to(dtype)
    mean, var = bias.clone(), weight.square()
    known = torch.stack([mean, var, (var.double() + EPS).rsqrt()]).double()
    correction = 1 if training else 0
    inputs = [t.clone().requires_grad_() for t in (x, weight, bias)]
    running = (None, None) if training else (mean, var)
    y = mx.batch_norm(
        inputs[0], *running, *inputs[1:], training, correction=correction, activation=activation
    )
    actual = [y, *torch.autograd.grad(y, inputs, grad)]
    plain = plain_batch_norm(
        *(t.double() for t in (x, grad, weight, bias)),
        None if training else known,
        correction=correction,
        eps=EPS,
        activation=NUMBERS[activation],
    )
    expected = [plain[name].to(dtype) for name in ("y", "dx", "dweight", "dbias")]
    if not training:  # without the feedback of the statistics
        torch.testing.assert_close(plain["statistics"], known, rtol=0, atol=0)
    torch.testing.assert_close(actual, expected, rtol=CLOSE[dtype], atol=CLOSE[dtype])


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weighted", [True, False], ids=["weighted", "unweighted"])
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shape", [(1, 1), (4, 27), (3, 1000)], ids=str)
def test_cross_entropy_is_its_formula_and_the_kernel_its_plain_form(
    shape, kind, weighted, smoothing
):
    rows, classes = shape
    x = drawn(*shape) * 5
    index = torch.randint(classes, (rows,), generator=seeded())
    target = index if kind == "indices" else drawn(*shape).softmax(1)
    q = F.one_hot(index, classes).double() if kind == "indices" else target
    weight = drawn(classes).square() if weighted else None
    z, grad_loss, grad_lse = 1e-2, drawn(rows), drawn(rows).flip(0)
    plain = plain_cross_entropy(
        x, q, weight, grad_loss, grad_lse, label_smoothing=smoothing, lse_square_scale=z
    )

    def losses(function, **extra):
        logits = x.clone().requires_grad_()
        loss = function(
            logits, target, weight, reduction="none", label_smoothing=smoothing, **extra
        )
        loss, lse = loss if extra else (loss + z * logits.logsumexp(1) ** 2, logits.logsumexp(1))
        (dx,) = torch.autograd.grad([loss, lse], [logits], [grad_loss, grad_lse])
        return {"loss": loss, "lse": lse, "dx": dx}

    torch.testing.assert_close(plain, losses(F.cross_entropy), rtol=1e-12, atol=1e-12)
    kernel = losses(mx.cross_entropy, return_lse=True, lse_square_scale=z)
    torch.testing.assert_close(kernel, plain, rtol=1e-12, atol=1e-12)


def test_embedding_is_its_formula_and_the_kernel_its_plain_form():
    indices = torch.randint(6, (40,), generator=seeded())
    grad_output = drawn(40, 3)
    plain = plain_embedding(grad_output, indices, 7)
    expected = torch.zeros(7, 3, dtype=torch.float64).index_add(0, indices, grad_output)
    torch.testing.assert_close(plain, expected, rtol=1e-13, atol=1e-13)
    weight = drawn(7, 3).requires_grad_()
    (gradient,) = torch.autograd.grad(mx.embedding(indices, weight), [weight], grad_output)
    torch.testing.assert_close(gradient, plain, rtol=1e-13, atol=1e-13)
