import pytest
import torch
import torch.nn.functional as F
from reference_cases import DTYPES, examples, integers, normal, shapes
from torch.testing import assert_close

from makemore_ext import reference

forms = pytest.mark.parametrize(
    "backward",
    [reference.cross_entropy_backward, reference.cross_entropy_backward_one_hot],
)


@forms
@pytest.mark.parametrize("n", [1, 2, 32, 33])
@pytest.mark.parametrize("vocabulary_size", [1, 2, 27])
@pytest.mark.parametrize("dtype", DTYPES)
def test_equals_autograd(backward, n, vocabulary_size, dtype):
    logits = 3 * normal(n, vocabulary_size, dtype=dtype)
    target = integers(vocabulary_size, n)
    logits.requires_grad_()
    (expected,) = torch.autograd.grad(F.cross_entropy(logits, target), logits)
    # Either is of a probability: exponential, sum and quotient, half an ulp of 1 each or less.
    tolerance = 8 * torch.finfo(dtype).eps / n
    assert_close(backward(logits.detach(), target), expected, rtol=0, atol=tolerance)


@forms
def test_gradcheck(backward):
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
def test_forms_agree(n, width, seed):
    logits, target = 3 * normal(n, width, seed=seed), integers(width, n, seed=seed)
    closed = reference.cross_entropy_backward(logits, target)
    one_hot = reference.cross_entropy_backward_one_hot(logits, target)
    assert_close(one_hot, closed, rtol=0, atol=1e-14)


def test_closed_form_holds_where_a_probability_underflows():
    logits, target = torch.tensor([[0.0, 200.0]]), torch.tensor([0])
    assert reference.cross_entropy_backward(logits, target).tolist() == [[-1.0, 1.0]]


def test_one_hot_form_is_nan_where_a_probability_underflows():
    logits, target = torch.tensor([[0.0, 200.0]]), torch.tensor([0])
    assert reference.cross_entropy_backward_one_hot(logits, target).isnan().any()
