import math
from copy import deepcopy
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from support import seeded
from torch.testing import assert_close

from makemore_ext import reference
from makemore_ext.check import differentiate
from makemore_ext.reference import Parameters

DTYPES = [torch.float32, torch.float64]
STEPS = [
    "emb", "embcat", "hprebn", "bnmeani", "bndiff", "bndiff2", "bnvar", "bnvar_inv", "bnraw",
    "hpreact", "h", "logits", "logit_maxes", "norm_logits", "counts", "counts_sum",
    "counts_sum_inv", "probs", "logprobs", "loss",
]  # fmt: skip
GRADIENTS = [
    "logprobs", "probs", "counts_sum_inv", "counts_sum", "counts", "norm_logits", "logit_maxes",
    "logits", "h", "W2", "b2", "hpreact", "bngain", "bnbias", "bnraw", "bnvar_inv", "bnvar",
    "bndiff2", "bndiff", "bnmeani", "hprebn", "embcat", "W1", "b1", "emb", "C",
]  # fmt: skip

sizes = pytest.mark.parametrize(("n", "hidden"), [(2, 5), (32, 64), (33, 200), (40, 1)])
shapes = given(
    n=st.integers(2, 9),
    width=st.integers(1, 9),
    seed=st.integers(0, 2**32),
)
examples = settings(max_examples=50, deadline=None, derandomize=True)


def network(
    n,
    hidden,
    dtype,
    *,
    output_scale=1.0,
    vocabulary_size=27,
    context=3,
    dimensions=10,
    seed=2147483647,
):
    """A random network with every parameter in play, and a minibatch."""
    generator = seeded(seed)

    def normal(*shape):
        return torch.randn(shape, generator=generator, dtype=dtype)

    fan_in = context * dimensions
    parameters = Parameters(
        C=normal(vocabulary_size, dimensions),
        W1=normal(fan_in, hidden) * 5 / 3 / math.sqrt(fan_in),
        b1=normal(hidden),
        W2=normal(hidden, vocabulary_size) * output_scale / math.sqrt(hidden),
        b2=normal(vocabulary_size) * output_scale,
        bngain=1 + 0.1 * normal(hidden),
        bnbias=0.1 * normal(hidden),
    )
    x = torch.randint(0, vocabulary_size, (n, context), generator=generator)
    y = torch.randint(0, vocabulary_size, (n,), generator=generator)
    return parameters, x, y


@cache
def squared_errors(hidden):
    """Of every gradient by hand and by autograd, in float32 over 20 draws."""
    total = {name: torch.zeros(2, dtype=torch.float64) for name in GRADIENTS}
    for seed in range(20):
        parameters, *given = network(32, hidden, torch.float32, output_scale=0.01, seed=seed)
        _, steps, by_autograd = differentiate(parameters, *given)
        by_hand = reference.backward(parameters, *given, steps)
        exact = Parameters(*(parameter.double() for parameter in parameters))
        truth = differentiate(exact, *given).gradients
        for name in GRADIENTS:
            errors = [found[name].double() - truth[name] for found in (by_hand, by_autograd)]
            total[name] += torch.stack(errors).square().flatten(1).sum(1)
    return total


def normal(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=seeded(seed), dtype=dtype)


def integers(high, *shape, seed=0):
    return torch.randint(0, high, shape, generator=seeded(seed))


class TestForward:
    def test_has_the_twenty_steps_in_order(self):
        assert list(reference.forward(*network(4, 8, torch.float32))) == STEPS

    @sizes
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_loss_is_that_of_torch(self, n, hidden, dtype):
        parameters, x, y = network(n, hidden, dtype)
        C, W1, b1, W2, b2, bngain, bnbias = parameters
        hprebn = C[x].flatten(1) @ W1 + b1
        # torch normalises by the variance over n: a factor that takes it to n-1, eps included.
        correction = (n - 1) / n
        biased = F.batch_norm(hprebn, None, None, training=True, eps=1e-5 * correction)
        h = torch.tanh(bngain * biased * math.sqrt(correction) + bnbias)
        expected = F.cross_entropy(h @ W2 + b2, y)
        assert_close(reference.forward(parameters, x, y)["loss"], expected)

    def test_steps_keep_the_reduced_dimension(self):
        steps = reference.forward(*network(4, 8, torch.float32))
        names = ("bnmeani", "bnvar", "bnvar_inv", "logit_maxes", "counts_sum", "counts_sum_inv")
        shapes = [tuple(steps[name].shape) for name in names]
        assert shapes == [(1, 8), (1, 8), (1, 8), (4, 1), (4, 1), (4, 1)]

    def test_large_logits_do_not_overflow(self):
        parameters, x, y = network(4, 8, torch.float32)
        shifted = parameters._replace(b2=parameters.b2 + 1e4)
        assert reference.forward(shifted, x, y)["loss"].isfinite()


class TestBackward:
    def test_has_the_26_gradients_in_order(self):
        parameters, x, y = network(4, 8, torch.float32)
        steps = reference.forward(parameters, x, y)
        assert list(reference.backward(parameters, x, y, steps)) == GRADIENTS

    @sizes
    @pytest.mark.parametrize("name", GRADIENTS)
    def test_gradient_equals_autograd_float64(self, name, n, hidden):
        parameters, x, y = network(n, hidden, torch.float64)
        _, steps, expected = differentiate(parameters, x, y)
        found = reference.backward(parameters, x, y, steps)
        assert_close(found[name], expected[name], rtol=1e-12, atol=1e-12)

    @pytest.mark.parametrize("hidden", [64, 200])
    @pytest.mark.parametrize("name", GRADIENTS)
    def test_gradient_equals_autograd_float32(self, name, hidden):
        given = network(32, hidden, torch.float32, output_scale=0.01)
        _, steps, expected = differentiate(*given)
        found = reference.backward(*given, steps)
        assert_close(found[name], expected[name], rtol=0, atol=1e-8)

    @pytest.mark.parametrize("hidden", [64, 200])
    @pytest.mark.parametrize("name", GRADIENTS)
    def test_no_further_from_the_truth_than_autograd_in_float32(self, name, hidden):
        """On average over draws: the formulas round as often as autograd's.

        The margin is for what autograd may contract, as 1 - h² in the gradient of tanh.
        """
        ours, theirs = squared_errors(hidden)[name]
        assert ours <= 1.1**2 * theirs

    def test_of_equal_maxima_the_one_of_max_gets_the_gradient(self):
        parameters, x, y = network(4, 8, torch.float64)
        zeros = torch.zeros_like(parameters.W2), torch.zeros_like(parameters.b2)
        parameters = parameters._replace(W2=zeros[0], b2=zeros[1])
        # Scaled counts make the maximum's gradient, which is 0 by itself, count.
        _, steps, _ = differentiate(parameters, x, y)
        steps["counts_sum_inv"] = 2 * steps["counts_sum_inv"]
        gradients = reference.backward(parameters, x, y, steps)
        received = gradients["logits"] - gradients["norm_logits"]
        selected = steps["logits"].max(1, keepdim=True).indices
        assert_close(
            received, torch.zeros_like(received).scatter(1, selected, gradients["logit_maxes"])
        )

    @examples
    @given(
        n=st.integers(2, 8),
        hidden=st.integers(1, 8),
        vocabulary_size=st.integers(1, 8),
        context=st.integers(1, 4),
        dimensions=st.integers(1, 4),
    )
    def test_any_shape(self, n, hidden, vocabulary_size, context, dimensions):
        parameters, x, y = network(
            n,
            hidden,
            torch.float64,
            vocabulary_size=vocabulary_size,
            context=context,
            dimensions=dimensions,
        )
        _, steps, expected = differentiate(parameters, x, y)
        found = reference.backward(parameters, x, y, steps)
        # Where the variance of a column is near 0, gradients grow up to eps^-1.5 = 3e7.
        scales = {name: 1 + expected[name].abs().max() for name in GRADIENTS}
        errors = {name: (found[name] - expected[name]).abs().max() for name in GRADIENTS}
        assert not [name for name in GRADIENTS if errors[name] > 1e-12 * scales[name]]


class TestCrossEntropy:
    forms = pytest.mark.parametrize(
        "backward",
        [reference.cross_entropy_backward, reference.cross_entropy_backward_one_hot],
    )

    @forms
    @pytest.mark.parametrize("n", [1, 2, 32, 33])
    @pytest.mark.parametrize("vocabulary_size", [1, 2, 27])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_autograd(self, backward, n, vocabulary_size, dtype):
        logits = 3 * normal(n, vocabulary_size, dtype=dtype)
        target = integers(vocabulary_size, n)
        logits.requires_grad_()
        (expected,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
        # Either is of a probability: exponential, sum and quotient, half an ulp of 1 each or less.
        tolerance = 8 * torch.finfo(dtype).eps / n
        assert_close(backward(logits.detach(), target), expected, rtol=0, atol=tolerance)

    @forms
    def test_gradcheck(self, backward):
        target = integers(5, 4)

        class CrossEntropy(torch.autograd.Function):
            @staticmethod
            def forward(ctx, logits):
                ctx.save_for_backward(logits)
                return F.cross_entropy(logits, target)

            @staticmethod
            def backward(ctx, grad):
                return grad * backward(*ctx.saved_tensors, target)

        assert torch.autograd.gradcheck(CrossEntropy.apply, normal(4, 5).requires_grad_())

    @examples
    @shapes
    def test_forms_agree(self, n, width, seed):
        logits, target = 3 * normal(n, width, seed=seed), integers(width, n, seed=seed)
        closed = reference.cross_entropy_backward(logits, target)
        one_hot = reference.cross_entropy_backward_one_hot(logits, target)
        assert_close(one_hot, closed, rtol=0, atol=1e-14)

    def test_closed_form_holds_where_a_probability_underflows(self):
        logits, target = torch.tensor([[0.0, 200.0]]), torch.tensor([0])
        assert reference.cross_entropy_backward(logits, target).tolist() == [[-1.0, 1.0]]

    def test_one_hot_form_is_nan_where_a_probability_underflows(self):
        logits, target = torch.tensor([[0.0, 200.0]]), torch.tensor([0])
        assert reference.cross_entropy_backward_one_hot(logits, target).isnan().any()


class TestBatchNorm:
    forms = pytest.mark.parametrize(
        "backward",
        [reference.batch_norm_backward, reference.batch_norm_backward_broadcast],
    )

    @sizes
    def test_forward_equals_the_steps(self, n, hidden):
        parameters, x, y = network(n, hidden, torch.float64)
        steps = reference.forward(parameters, x, y)
        found = reference.batch_norm_forward(steps["hprebn"], parameters.bngain, parameters.bnbias)
        assert_close(found, steps["hpreact"], rtol=1e-12, atol=1e-12)

    @staticmethod
    def tolerance(dhpreact, hprebn, bngain):
        """Eight half ulps of the largest term that there may be, and of x - mean those of x."""
        deviation = (hprebn.var(0) + reference.EPS).sqrt()
        magnified = (hprebn.abs() / deviation).max().clamp(min=1)
        terms = (bngain / deviation).abs().max() * dhpreact.abs().max()
        return (4 * torch.finfo(hprebn.dtype).eps * magnified * terms).item()

    @forms
    @sizes
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_equals_autograd(self, backward, n, hidden, dtype):
        hprebn, dhpreact = normal(n, hidden, dtype=dtype), normal(n, hidden, seed=1, dtype=dtype)
        bngain, bnbias = normal(hidden, seed=2, dtype=dtype), normal(hidden, seed=3, dtype=dtype)
        hprebn.requires_grad_()
        hpreact = reference.batch_norm_forward(hprebn, bngain, bnbias)
        (expected,) = torch.autograd.grad(hpreact, hprebn, dhpreact)
        given = dhpreact, hprebn.detach(), bngain
        assert_close(backward(*given), expected, rtol=0, atol=self.tolerance(*given))

    @forms
    @pytest.mark.parametrize("eps", [1e-5, 0.5])
    def test_gradcheck(self, backward, eps):
        bngain, bnbias = normal(3, seed=1), normal(3, seed=2)

        class BatchNorm(torch.autograd.Function):
            @staticmethod
            def forward(ctx, hprebn):
                ctx.save_for_backward(hprebn)
                return reference.batch_norm_forward(hprebn, bngain, bnbias, eps)

            @staticmethod
            def backward(ctx, dhpreact):
                return backward(dhpreact, *ctx.saved_tensors, bngain, eps)

        assert torch.autograd.gradcheck(BatchNorm.apply, normal(6, 3).requires_grad_())

    @examples
    @shapes
    def test_forms_agree(self, n, width, seed):
        given = normal(n, width, seed=seed), normal(n, width, seed=seed + 1), normal(width)
        closed = reference.batch_norm_backward(*given)
        broadcast = reference.batch_norm_backward_broadcast(*given)
        assert_close(broadcast, closed, rtol=0, atol=self.tolerance(*given))


class TestEmbedding:
    @pytest.mark.parametrize(("n", "context"), [(1, 1), (2, 3), (32, 3), (33, 8)])
    @pytest.mark.parametrize("dtype", DTYPES)
    def test_forms_agree(self, n, context, dtype):
        # Sums of integers are exact in any order.
        demb, x = integers(1000, n, context, 10).to(dtype), integers(27, n, context)
        loop = reference.embedding_backward_loop(demb, x, 27)
        assert torch.equal(reference.embedding_backward(demb, x, 27), loop)

    @examples
    @given(
        shape=st.lists(st.integers(0, 4), max_size=3),
        dimensions=st.integers(0, 4),
        seed=st.integers(0, 2**32),
    )
    def test_any_shape_equals_autograd(self, shape, dimensions, seed):
        C = normal(5, dimensions, seed=seed).requires_grad_()
        x, demb = integers(5, *shape, seed=seed), integers(1000, *shape, dimensions, seed=seed)
        (expected,) = torch.autograd.grad(C[x], C, demb.to(C.dtype))
        assert torch.equal(reference.embedding_backward(demb.to(C.dtype), x, 5), expected)

    def test_unused_rows_are_zero(self):
        dC = reference.embedding_backward(torch.ones(2, 1, 1), torch.tensor([[1], [1]]), 3)
        assert dC.tolist() == [[0.0], [2.0], [0.0]]


X = torch.zeros(4, 3, dtype=torch.int64)
Y = torch.zeros(4, dtype=torch.int64)
ONES = torch.ones(4, 8)
GAIN = torch.ones(8)


class TestBadInput:
    @pytest.mark.parametrize(
        ("changes", "error", "message"),
        [
            ({"x": X[:1], "y": Y[:1]}, ValueError, r"x: must have at least 2 rows .*, got 1$"),
            ({"x": X[:0], "y": Y[:0]}, ValueError, r"x: must have at least 2 rows .*, got 0$"),
            ({"x": Y}, ValueError, r"x: must be of shape \[n, context\], got \[4\]$"),
            ({"x": X.int()}, TypeError, r"x: must be int64, got torch.int32$"),
            ({"x": X - 1}, IndexError, r"x: must hold 0 to 26, got -1$"),
            ({"x": X + 27}, IndexError, r"x: must hold 0 to 26, got 27$"),
            ({"y": Y[:1]}, ValueError, r"y: must be of shape \[4\], got \[1\]$"),
            ({"y": Y.float()}, TypeError, r"y: must be int64, got torch.float32$"),
            ({"y": Y - 1}, IndexError, r"y: must hold 0 to 26, got -1$"),
            ({"C": ONES[0]}, ValueError, r"C: must be of shape \[V, D\], got \[8\]$"),
            ({"W1": ONES}, ValueError, r"W1: must be of shape \[30, 8\], got \[4, 8\]$"),
            ({"bngain": GAIN[None]}, ValueError, r"bngain: must be of shape \[8\], got \[1, 8\]$"),
        ],
    )
    def test_network(self, changes, error, message):
        parameters, _, _ = network(4, 8, torch.float32)
        x, y = changes.pop("x", X), changes.pop("y", Y)
        with pytest.raises(error, match=message):
            reference.forward(parameters._replace(**changes), x, y)

    def test_backward_checks_as_forward_does(self):
        parameters, x, y = network(4, 8, torch.float32)
        steps = reference.forward(parameters, x, y)
        with pytest.raises(ValueError, match=r"^y: must be of shape \[4\], got \[3\]$"):
            reference.backward(parameters, x, y[:3], steps)

    @TestCrossEntropy.forms
    @pytest.mark.parametrize(
        ("logits", "target", "error", "message"),
        [
            (GAIN, Y, ValueError, r"^logits: must be of shape \[n, V\], got \[8\]$"),
            (ONES, Y[:1], ValueError, r"^target: must be of shape \[4\], got \[1\]$"),
            (ONES, Y.int(), TypeError, r"^target: must be int64, got torch.int32$"),
            (ONES, Y - 100, IndexError, r"^target: must hold 0 to 7, got -100$"),
        ],
    )
    def test_cross_entropy(self, backward, logits, target, error, message):
        with pytest.raises(error, match=message):
            backward(logits, target)

    @pytest.mark.parametrize(
        ("hprebn", "bngain", "bnbias", "message"),
        [
            (GAIN, GAIN, GAIN, r"^hprebn: must be of shape \[n, H\], got \[8\]$"),
            (ONES[:1], GAIN, GAIN, r"^hprebn: must have at least 2 rows .*, got 1$"),
            (ONES, ONES, GAIN, r"^bngain: must be of shape \[8\], got \[4, 8\]$"),
            (ONES, GAIN, GAIN[:1], r"^bnbias: must be of shape \[8\], got \[1\]$"),
        ],
    )
    def test_batch_norm_forward(self, hprebn, bngain, bnbias, message):
        with pytest.raises(ValueError, match=message):
            reference.batch_norm_forward(hprebn, bngain, bnbias)

    @TestBatchNorm.forms
    @pytest.mark.parametrize(
        ("dhpreact", "hprebn", "bngain", "message"),
        [
            (ONES[:1], ONES[:1], GAIN, r"^hprebn: must have at least 2 rows .*, got 1$"),
            (ONES[:1], ONES, GAIN, r"^dhpreact: must be of shape \[4, 8\], got \[1, 8\]$"),
            (ONES, ONES, GAIN[:1], r"^bngain: must be of shape \[8\], got \[1\]$"),
        ],
    )
    def test_batch_norm_backward(self, backward, dhpreact, hprebn, bngain, message):
        with pytest.raises(ValueError, match=message):
            backward(dhpreact, hprebn, bngain)

    @pytest.mark.parametrize(
        "backward", [reference.embedding_backward_loop, reference.embedding_backward]
    )
    @pytest.mark.parametrize(
        ("demb", "x", "error", "message"),
        [
            (torch.ones(4, 2, 5), X, ValueError, r"^demb: must be of x's shape \[4, 3\] and one"),
            (torch.ones(4, 3, 5), X - 1, IndexError, r"^x: must hold 0 to 26, got -1$"),
            (torch.ones(4, 3, 5), X.bool(), TypeError, r"^x: must be int64, got torch.bool$"),
        ],
    )
    def test_embedding(self, backward, demb, x, error, message):
        with pytest.raises(error, match=message):
            backward(demb, x, 27)

    def test_embedding_loop_is_for_matrices(self):
        with pytest.raises(ValueError, match=r"^x: must be of shape \[n, context\], got \[4\]$"):
            reference.embedding_backward_loop(torch.ones(4, 5), Y, 27)


def calls():
    parameters, x, y = network(4, 8, torch.float32)
    steps = reference.forward(parameters, x, y)
    logits, hprebn, demb = steps["logits"], steps["hprebn"], steps["emb"]
    bngain, bnbias = parameters.bngain, parameters.bnbias
    return [
        (reference.forward, (parameters, x, y)),
        (reference.backward, (parameters, x, y, steps)),
        (reference.cross_entropy_backward, (logits, y)),
        (reference.cross_entropy_backward_one_hot, (logits, y)),
        (reference.batch_norm_forward, (hprebn, bngain, bnbias)),
        (reference.batch_norm_backward, (ONES, hprebn, bngain)),
        (reference.batch_norm_backward_broadcast, (ONES, hprebn, bngain)),
        (reference.embedding_backward_loop, (demb, x, 27)),
        (reference.embedding_backward, (demb, x, 27)),
    ]


@pytest.mark.parametrize(("function", "arguments"), calls())
def test_nothing_given_is_changed(function, arguments):
    before = deepcopy(arguments)
    function(*arguments)
    assert_close(arguments, before, rtol=0, atol=0)
