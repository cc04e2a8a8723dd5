import math
from functools import cache

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from reference_cases import DTYPES, examples, network, sizes
from torch.testing import assert_close

from makemore_ext import reference
from makemore_ext.check import differentiate
from makemore_ext.reference import Parameters

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
