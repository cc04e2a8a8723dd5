import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from operator_calls import OTHER_SHAPES, TARGET, C, X, operator_tests
from support import LAYOUTS, error, seeded, spacing, threads
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx
from makemore_ext._native import operators

DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def make(
    shape: tuple[int, ...], vocabulary: int, features: int, dtype: torch.dtype, seed: int = 0
) -> tuple[Tensor, Tensor, Tensor]:
    generator = seeded(seed)
    input = torch.randint(0, vocabulary, shape, generator=generator)
    weight = torch.randn(vocabulary, features, dtype=dtype, generator=generator)
    grad_output = torch.randn(*shape, features, dtype=dtype, generator=generator)
    return input, weight, grad_output


def output_and_gradient(function, input, weight, grad_output, **options) -> tuple[Tensor, Tensor]:
    weight = weight.detach().requires_grad_()
    output = function(input, weight, **options)
    return output.detach(), torch.autograd.grad(output, weight, grad_output)[0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("index", [torch.int64, torch.int32], ids=str)
@pytest.mark.parametrize("padding_idx", [None, 0, -1])
@pytest.mark.parametrize(
    ("shape", "vocabulary", "features"),
    [((32, 3), 27, 10), ((0,), 5, 4), ((7,), 1, 1), ((), 3, 2), ((2, 3, 4), 6, 70), ((4,), 9, 0)],
)
def test_agrees_with_torch(shape, vocabulary, features, padding_idx, index, dtype):
    input, weight, grad_output = make(shape, vocabulary, features, dtype)
    input = input.to(index)
    output, gradient = output_and_gradient(
        mx.embedding, input, weight, grad_output, padding_idx=padding_idx
    )
    wide = (input, weight.double(), grad_output.double())
    truth, true_gradient = output_and_gradient(F.embedding, *wide, padding_idx=padding_idx)
    assert output.dtype == gradient.dtype == dtype
    assert torch.equal(output.double(), truth)
    # One rounding of a sum in double.
    torch.testing.assert_close(gradient, true_gradient.to(dtype), rtol=1e-15, atol=1e-15)


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


INPUT, WEIGHT, _ = make((4, 3), 5, 2, torch.float32)
BAD = {
    "index too large": ({"input": INPUT + 5}, IndexError, r"input must hold indices in \[0, 5\)"),
    "index negative": ({"input": INPUT - 5}, IndexError, r"input must hold indices in \[0, 5\)"),
    "input dtype": ({"input": INPUT.float()}, NotImplementedError, "input must be an int64"),
    "input type": ({"input": [1, 2]}, NotImplementedError, "input must be an int64"),
    "weight dtype": ({"weight": WEIGHT.long()}, NotImplementedError, "weight must be float16"),
    "weight dimensions": ({"weight": WEIGHT[0]}, ValueError, "2 dimensions"),
    "padding_idx": ({"padding_idx": 5}, ValueError, r"padding_idx must be in \[-5, 5\), got 5"),
    "padding_idx negative": ({"padding_idx": -6}, ValueError, r"padding_idx .*, got -6"),
    "max_norm": ({"max_norm": 1.0}, NotImplementedError, "max_norm must be None, got 1.0"),
    "by frequency": (
        {"scale_grad_by_freq": True},
        NotImplementedError,
        "scale_grad_by_freq must be False, got True",
    ),
    "sparse": ({"sparse": True}, NotImplementedError, "sparse must be False, got True"),
    "weight type": ({"weight": None}, TypeError, "weight must be a Tensor"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(arguments, kind, message):
    with pytest.raises(kind, match=message):
        mx.embedding(**{"input": INPUT, "weight": WEIGHT, **arguments})


BACKWARD = "embedding_backward"
CALLS = {
    "embedding": {"input": TARGET, "weight": X, "padding_idx": 1},
    "embedding_backward": {
        "grad_output": X,
        "input": TARGET,
        "num_embeddings": C,
        "padding_idx": -1,
    },
}
FITS = {
    *(
        ("embedding", "weight", damage)
        for damage in ("other width", "one longer", "one class more")
    ),
    *(("embedding", "input", damage) for damage in OTHER_SHAPES),
    *((name, "input", "int32") for name in CALLS),
    (BACKWARD, "grad_output", "other width"),
    (BACKWARD, "grad_output", "one class more"),
}
REFUSED = {
    "index": ([BACKWARD], {"input": TARGET + 1}, r"input must hold indices in \[0, 5\), got 5"),
    "index into the table": (["embedding"], {"input": TARGET + 2}, r"in \[0, 6\), got 6"),
    "index negative": ([*CALLS], {"input": TARGET - 1}, r"input must hold indices .*, got -1"),
    "index into nothing": (
        [BACKWARD],
        {"grad_output": X[:, :0], "num_embeddings": 4},
        r"input must hold indices in \[0, 4\), got 4",
    ),
    "negative size": (
        [BACKWARD],
        {"num_embeddings": -1},
        "num_embeddings must not be negative, got -1",
    ),
    "padding too large": ([*CALLS], {"padding_idx": 9}, "padding_idx must be in .*, got 9"),
    "padding negative": ([*CALLS], {"padding_idx": -2}, "padding_idx must be in .*, got -2"),
}
(
    test_takes_its_call,
    test_passes_opcheck,
    test_refuses_a_tensor_that_does_not_fit,
    test_refuses,
    test_refuses_a_tensor_whose_memory_was_freed,
) = operator_tests(CALLS, FITS, REFUSED)


@pytest.mark.parametrize("autograd", [True, False])
def test_operators_raise_index_errors(autograd):
    ones, input = torch.ones(2, 3, requires_grad=autograd), torch.tensor([0, 7])
    with pytest.raises(IndexError, match=r"input must hold indices in \[0, 5\), got 7"):
        operators.embedding_backward(ones, input, 5)
    with pytest.raises(IndexError, match=r"input must hold indices in \[0, 2\), got 7"):
        operators.embedding(input, ones)


def test_a_table_without_features_may_be_of_any_length():
    result = operators.embedding_backward(torch.ones(2, 0), torch.tensor([0, 2**60]), 2**61)
    assert result.shape == (2**61, 0)
