import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_calls import TARGET, C, X, operator_tests
from support import LAYOUTS, error, seeded, spacing, threads
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext._native import operators

DTYPES = (torch.float32, torch.float64)


def make(
    shape: tuple[int, ...], vocabulary: int, features: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    input = torch.randint(0, vocabulary, shape, generator=generator)
    weight = torch.randn(vocabulary, features, dtype=dtype, generator=generator)
    grad_output = torch.randn(*shape, features, dtype=dtype, generator=generator)
    return input, weight, grad_output


def output_and_gradient(function, input, weight, grad_output) -> tuple[Tensor, Tensor]:
    weight = weight.detach().requires_grad_()
    output = function(input, weight)
    return output.detach(), torch.autograd.grad(output, weight, grad_output)[0]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("shape", "vocabulary", "features"),
    [((32, 3), 27, 10), ((0,), 5, 4), ((7,), 1, 1), ((), 3, 2), ((2, 3, 4), 6, 70), ((4,), 9, 0)],
)
def test_agrees_with_torch(shape, vocabulary, features, dtype):
    case = make(shape, vocabulary, features, dtype)
    ours = output_and_gradient(mx.embedding, *case)
    torch.testing.assert_close(ours, output_and_gradient(F.embedding, *case))


def test_a_row_used_often_is_rounded_once():
    input, weight, grad_output = make((50_000,), 2, 8, torch.float32)
    grad_output = grad_output.abs()
    _, actual = output_and_gradient(mx.embedding, input, weight, grad_output)
    _, truth = output_and_gradient(F.embedding, input, weight.double(), grad_output.double())
    # The sum itself is in double, where 25,000 roundings are nothing beside this one.
    assert error(actual, truth) <= 1.001 * spacing(truth, torch.float32)


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_the_gradient_does_not_matter(layout):
    input, weight, grad_output = make((33,), 9, 41, torch.float32)
    expected = output_and_gradient(mx.embedding, input, weight, grad_output)
    actual = output_and_gradient(mx.embedding, input, weight, layout(grad_output))
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@settings(deadline=None, max_examples=40)
@given(
    tokens=st.integers(0, 50),
    vocabulary=st.integers(1, 40),
    features=st.integers(1, 80),
    seed=st.integers(0, 2**16),
)
def test_any_shape(tokens, vocabulary, features, seed):
    case = make((tokens,), vocabulary, features, torch.float64, seed)
    ours = output_and_gradient(mx.embedding, *case)
    torch.testing.assert_close(ours, output_and_gradient(F.embedding, *case))


def test_same_bits_for_every_thread_count_and_run():
    case = make((3000,), 500, 64, torch.float32)
    results = []
    for count in (1, 2, 3, 2):
        with threads(count):
            results.append(output_and_gradient(mx.embedding, *case)[1])
    assert all(torch.equal(result, results[0]) for result in results)


@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives(check):
    input, weight, _ = make((4, 3), 5, 2, torch.float64)
    assert check(lambda w: mx.embedding(input, w), weight.requires_grad_())


INPUT, WEIGHT, _ = make((4, 3), 5, 2, torch.float32)
BAD = {
    "index too large": ({"input": INPUT + 5}, IndexError, "out of range"),
    "index negative": ({"input": INPUT - 5}, IndexError, "out of range"),
    "input dtype": ({"input": INPUT.float()}, NotImplementedError, "input must be an int64"),
    "input type": ({"input": [1, 2]}, NotImplementedError, "input must be an int64"),
    "weight dtype": ({"weight": WEIGHT.half()}, NotImplementedError, "weight must be float32"),
    "weight dimensions": ({"weight": WEIGHT[0]}, ValueError, "2 dimensions"),
    "weight type": ({"weight": None}, TypeError, "weight must be a Tensor"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(arguments, kind, message):
    with pytest.raises(kind, match=message):
        mx.embedding(**{"input": INPUT, "weight": WEIGHT, **arguments})


CALLS = {"embedding_backward": {"grad_output": X, "indices": TARGET, "num_embeddings": C}}
FITS = {
    ("embedding_backward", "grad_output", "other width"),
    ("embedding_backward", "grad_output", "one class more"),
}
REFUSED = {
    "index": (["embedding_backward"], {"indices": TARGET + 1}, "indices must be in .0, 5., got 5"),
    "index negative": (
        ["embedding_backward"],
        {"indices": TARGET - 1},
        "indices must be in .0, 5., got -1",
    ),
    "index into nothing": (
        ["embedding_backward"],
        {"grad_output": X[:, :0], "num_embeddings": 4},
        "indices must be in .0, 4., got 4",
    ),
    "negative size": (
        ["embedding_backward"],
        {"num_embeddings": -1},
        "must not be negative, got -1",
    ),
    "narrow gradient": (
        ["embedding_backward"],
        {"grad_output": X.half()},
        "grad_output must be float32 or float64, got float16",
    ),
}
(
    test_takes_its_call,
    test_refuses_a_tensor_that_does_not_fit,
    test_refuses,
    test_refuses_a_tensor_whose_memory_was_freed,
) = operator_tests(CALLS, FITS, REFUSED)


def test_operator_raises_an_index_error():
    with pytest.raises(IndexError, match=r"indices must be in \[0, 5\), got 7"):
        operators.embedding_backward(torch.ones(2, 3), torch.tensor([0, 7]), 5)


def test_a_table_without_features_may_be_of_any_length():
    result = operators.embedding_backward(torch.ones(2, 0), torch.tensor([0, 2**60]), 2**61)
    assert result.shape == (2**61, 0)


def test_operator_passes_opcheck():
    operator = operators.embedding_backward.default
    torch.library.opcheck(operator, (torch.rand(4, 3), torch.tensor([0, 2, 2, 1]), 3))
