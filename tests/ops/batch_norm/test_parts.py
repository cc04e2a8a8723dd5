"""The operators for a part of a batch compute what those for a whole one do, a step at a time."""

import pytest
import torch
from batch_norm_cases import DTYPES, SHAPES, Case
from support import ND_LAYOUTS

from makemore_ext._native import operators

IMAGES = (4, 6, 5, 7)
LAYOUTS = {name: layout for name, layout in ND_LAYOUTS.items() if name != "expanded pixels"}
ACTIVATIONS = (0, 1, 2)


def whole(case, activation, correction=0.0):
    """Output and statistics, the output where backward wants it, and the gradients."""
    output, statistics = operators.batch_norm_forward(
        case.input, case.weight, case.bias, None, None, True, correction, 1e-5, activation
    )
    saved = output if activation else None
    gradients = operators.batch_norm_backward(
        case.grad_output, case.input, case.weight, saved, statistics, True, correction, activation,
        True, True,
    )  # fmt: skip
    return output, statistics, saved, gradients


def check(case, activation):
    output, statistics, saved, gradients = whole(case, activation)
    moments = operators.batch_norm_statistics(case.input)
    assert torch.equal(moments, statistics[:2])
    evaluated, known = operators.batch_norm_forward(
        case.input, case.weight, case.bias, *moments, False, 0.0, 1e-5, activation
    )
    assert torch.equal(evaluated, output)
    assert torch.equal(known, statistics)

    call = case.grad_output, case.input
    sums = operators.batch_norm_gradient_sums(*call, saved, statistics, activation)
    grad_input, grad_weight, grad_bias = gradients
    assert torch.equal(sums[1].to(grad_weight.dtype), grad_weight)
    assert torch.equal(sums[0].to(grad_bias.dtype), grad_bias)
    count = case.input.numel() // case.input.shape[1]
    of_part = operators.batch_norm_input_gradient(
        *call, case.weight, saved, statistics, sums / count, activation
    )
    assert of_part.stride() == grad_input.stride()
    # Sums are divided and multiplied again, in double: at most a rounding to the dtype is another.
    eps = torch.finfo(case.input.dtype).eps
    torch.testing.assert_close(of_part, grad_input, rtol=2 * eps, atol=2 * eps)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_steps_of_a_whole_batch(shape, dtype, activation):
    check(Case(shape, dtype), activation)


@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts(layout, dtype, activation):
    case = Case(IMAGES, dtype)
    case.input, case.grad_output = layout(case.input), layout(case.grad_output)
    check(case, activation)


@pytest.mark.parametrize("offset", [1e4, 1e30])
def test_far_from_zero(offset):
    check(Case((50, 9), torch.float32, offset=offset), 1)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_value_per_channel(dtype):
    input = Case((1, 7), dtype).input
    mean, variance = operators.batch_norm_statistics(input)
    assert torch.equal(mean, input[0].double())
    assert not variance.any()


@pytest.mark.parametrize("shape", [(0, 3), (0, 3, 4, 4), (2, 3, 0), (2, 0)])
def test_nothing(shape):
    input = torch.ones(shape)
    statistics = operators.batch_norm_statistics(input)
    assert statistics.shape == (2, shape[1])
    assert not statistics.any()
    known = torch.ones(3, shape[1], dtype=torch.float64)
    sums = operators.batch_norm_gradient_sums(input, input, None, known, 0)
    assert not sums.any()
    grad_input = operators.batch_norm_input_gradient(input, input, None, None, known, sums, 0)
    assert grad_input.shape == shape
