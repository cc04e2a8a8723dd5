import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from reference_cases import DTYPES, examples, integers, normal

from makemore_ext import reference


@pytest.mark.parametrize(("n", "context"), [(1, 1), (2, 3), (32, 3), (33, 8)])
@pytest.mark.parametrize("dtype", DTYPES)
def test_forms_agree(n, context, dtype):
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
def test_any_shape_equals_autograd(shape, dimensions, seed):
    C = normal(5, dimensions, seed=seed).requires_grad_()
    x, demb = integers(5, *shape, seed=seed), integers(1000, *shape, dimensions, seed=seed)
    (expected,) = torch.autograd.grad(C[x], C, demb.to(C.dtype))
    assert torch.equal(reference.embedding_backward(demb.to(C.dtype), x, 5), expected)


def test_unused_rows_are_zero():
    dC = reference.embedding_backward(torch.ones(2, 1, 1), torch.tensor([[1], [1]]), 3)
    assert dC.tolist() == [[0.0], [2.0], [0.0]]
