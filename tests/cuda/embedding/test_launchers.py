"""The launcher of the embedding's gradient, executed by the bench, against float64."""

import ctypes

import pytest
import torch
from cuda_bench import Device
from embedding_table import CASES, Case, check
from launched import NUMBERS, call, launchers, needs_nvcc
from launched_embedding import Matrix, embedding_backward

import makemore_ext  # noqa: F401  registers the operators

pytestmark = needs_nvcc


@pytest.fixture(scope="module")
def compiled():
    return launchers("embedding")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_agrees_with_the_truth(case, compiled):
    check(case, compiled, Device())


@pytest.mark.parametrize("dtype", [torch.float16, torch.float32])
@pytest.mark.parametrize("vocabulary", [1, 3, 100])
def test_same_bits_in_every_order_of_the_blocks(vocabulary, dtype, compiled):
    case = Case(400, vocabulary, 24, dtype)
    first = check(case, compiled, Device())
    for options in ({"order": "reversed"}, {"order": "shuffled"}, {"concurrent_blocks": 1}):
        assert check(case, compiled, Device(**options)) == first


def test_the_same_bits_as_the_cpu_where_nothing_is_rounded(compiled):
    grad_output = torch.randint(-8, 8, (150, 20)).double()
    indices = torch.randint(0, 7, (150,))
    operator = torch.ops.makemore_ext.embedding_backward.default
    actual = embedding_backward(compiled, Device(), grad_output, indices, 9)
    assert actual.equal(operator(grad_output, indices, 9))


@pytest.mark.parametrize("index", [-1, 5, 2**40])
@pytest.mark.parametrize("tokens", [1, 70])
def test_an_index_outside_the_table_writes_nothing(tokens, index, compiled):
    indices = torch.full((tokens,), index)
    actual = embedding_backward(compiled, Device(), torch.ones(tokens, 8), indices, 5)
    assert actual.equal(torch.zeros(5, 8))


def test_more_features_than_a_grid_has_blocks_for_are_an_error_before_anything_is_written(compiled):
    nowhere = ctypes.byref(Matrix(0, 1, 65535 * 32 + 1, 65535 * 32 + 1, 1))
    with pytest.raises(RuntimeError, match=r"^embedding_backward: more features than a grid has"):
        call(compiled, Device(), "backward", NUMBERS[torch.float32], nowhere, None, None, nowhere,
             None)  # fmt: skip
