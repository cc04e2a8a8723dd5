"""Strides of input and upstream gradient: the values are those of contiguous tensors."""

from math import prod

import pytest
import support
import torch
from batch_norm_cases import DTYPES, Case, check_roundings, torch_batch_norm
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LAYOUTS, threads
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

ND_LAYOUTS = {
    **support.ND_LAYOUTS,
    "channels last with gaps": lambda tensor: support.padded(tensor.movedim(1, -1)).movedim(-1, 1),
    "some of the channels": lambda tensor: torch.cat([tensor, tensor], 1)[:, : tensor.shape[1]],
    "expanded channels": lambda tensor: tensor[:, :1].expand_as(tensor),
}
ND_SHAPES = ((40, 33), (2, 5, 33), (2, 21, 6, 17), (2, 3, 70, 10), (3, 4, 2, 3, 5), (5, 1, 4, 4))


def check_against_contiguous(case: Case, **options):
    """The bits of a contiguous input's result, up to the order of the sums."""
    actual = case.run(mx.batch_norm, True, **options)
    case.input, case.grad_output = case.input.contiguous(), case.grad_output.contiguous()
    expected = case.run(mx.batch_norm, True, **options)
    narrow = {"rtol": 1e-2, "atol": 1e-2} if case.input.dtype in DTYPES[:2] else {}
    torch.testing.assert_close(actual, expected, **narrow or {"rtol": 1e-5, "atol": 1e-4})


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_rows(layout, dtype):
    case = Case((33, 41), dtype)
    expected = case.run(mx.batch_norm, True, activation="tanh")
    case.input, case.grad_output = layout(case.input), layout(case.grad_output)
    actual = case.run(mx.batch_norm, True, activation="tanh")
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("activation", [None, "relu"])
@pytest.mark.parametrize("layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("shape", ND_SHAPES, ids=str)
def test_layouts_of_the_input(shape, layout, activation, dtype):
    case = Case(shape, dtype)
    case.input = layout(case.input)
    check_against_contiguous(case, activation=activation)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "offset", "channels last"])
@pytest.mark.parametrize("shape", [(4160, 1024), (5200, 811), (8, 17, 176, 177)], ids=str)
def test_results_too_large_for_the_caches(shape, layout, dtype):
    """Written past them, where rows are aligned."""
    case = Case(shape, dtype)
    case.leave_out_kinks(True)
    case.input, case.grad_output = (
        ND_LAYOUTS[layout](tensor) for tensor in (case.input, case.grad_output)
    )
    actual = case.run(mx.batch_norm, True, activation="relu")
    expected = case.double().run(torch_batch_norm, True, activation="relu")
    check_roundings(actual, expected, case, True)


@pytest.mark.parametrize("grad_layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(40, 33), (2, 21, 6, 17)], ids=str)
def test_layouts_of_the_upstream_gradient(shape, layout, grad_layout):
    case = Case(shape, torch.float32)
    case.input, case.grad_output = ND_LAYOUTS[layout](case.input), grad_layout(case.grad_output)
    check_against_contiguous(case)


@pytest.mark.parametrize("grad", [torch.tensor(0.75).expand(8, 5, 3), torch.zeros(8, 5, 3)])
def test_gradients_that_are_the_same_everywhere(grad):
    # The sum of what has mean 0 does not change.
    case = Case((8, 5, 3), torch.float32)
    case.grad_output = grad
    assert case.run(mx.batch_norm, True)[1].abs().max() < 1e-7


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize(
    "shape",
    [
        *ND_SHAPES,
        (4, 1, 1, 1),
        (4, 3, 1, 1),
        (1, 3, 5, 1),
        (4, 1, 5, 6),
        (1, 1, 3, 3),
        (2, 3, 1, 4),
    ],
    ids=str,
)
def test_strides_of_output_and_gradient_as_torch(shape, layout, training):
    if training and prod(shape) == shape[1]:
        pytest.skip("one value per channel")
    strides = []
    for function in (mx.batch_norm, F.batch_norm):
        case = Case(shape, torch.float32)
        input = layout(case.input).requires_grad_()
        output = function(input, case.running_mean, case.running_var, training=training)
        (gradient,) = torch.autograd.grad(output, input, case.grad_output)
        strides.append((output.stride(), gradient.stride()))
    assert strides[0] == strides[1]


@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", [(40, 33), (2, 21, 6, 17)], ids=str)
def test_nothing_given_is_changed_but_the_running_statistics(shape, layout):
    case = Case(shape, torch.float32)
    case.input = ND_LAYOUTS[layout](case.input)
    given = (case.input, case.weight, case.bias, case.grad_output)
    before = [tensor.clone() for tensor in given]
    case.run(mx.batch_norm, True, activation="relu")
    for tensor, copy in zip(given, before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor._version == 0


PIECES = (
    *((32, 200), (600, 150), (3000, 40), (1100, 5000), (2, 40000)),
    *((8, 20, 700), (4, 3, 40000), (16, 500, 9), (16, 2, 60, 60)),
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize("shape", PIECES, ids=str)
def test_same_bits_for_every_thread_count_and_run(shape, layout, dtype):
    case = Case(shape, dtype)
    case.input = ND_LAYOUTS[layout](case.input)
    results = []
    for count in (1, 2, 3, 2):
        with threads(count):
            results.append(case.run(mx.batch_norm, True, activation="tanh"))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@st.composite
def strided(draw, tensor: Tensor) -> Tensor:
    """The tensor in memory of another order, with gaps and an offset."""
    order = draw(st.permutations(range(tensor.dim())))
    steps = [draw(st.integers(1, 2)) for _ in tensor.shape]
    wide = [tensor.shape[dim] * step for dim, step in zip(order, steps, strict=True)]
    offset = draw(st.integers(0, 3))
    memory = torch.zeros(offset + prod(wide), dtype=tensor.dtype)
    view = memory[offset:].view(wide)[tuple(slice(None, None, step) for step in steps)]
    return view.permute(sorted(range(tensor.dim()), key=order.__getitem__)).copy_(tensor)


@st.composite
def problems(draw) -> tuple[Case, dict]:
    dims = draw(st.integers(2, 5))
    shape = [draw(st.integers(1, 7)) for _ in range(dims)]
    if draw(st.booleans()):  # one long dimension, where vectors and their remainders are
        shape[draw(st.integers(0, dims - 1))] = draw(st.integers(10, 90))
    if prod(shape) < 4 * shape[1]:  # of few values the variance may be anything
        shape[0] = 4
    case = Case(tuple(shape), torch.float32, seed=draw(st.integers(0, 2**16)))
    options = {
        "training": draw(st.booleans()),
        "activation": draw(st.sampled_from([None, "tanh", "relu"])),
        "momentum": draw(st.sampled_from([0.1, 0.7])),
    }
    if options["activation"] == "relu":
        case.leave_out_kinks(options["training"])
    case.input, case.grad_output = draw(strided(case.input)), draw(strided(case.grad_output))
    return case, options


@settings(deadline=None, max_examples=150)
@given(problems())
def test_any_shape_and_strides(problem):
    """Against torch on contiguous tensors.

    Torch 2.13 errs where the upstream gradient is channels last and the input is not, as in
    [4, 2, 2, 1, 1].
    """
    case, options = problem
    torch.testing.assert_close(
        case.run(mx.batch_norm, **options),
        case.contiguous().run(torch_batch_norm, **options),
        rtol=1e-4,
        atol=1e-4,
    )


def test_gradient_channels_last_beside_a_contiguous_input():
    """Where torch 2.13 errs."""
    case = Case((4, 2, 2, 1, 1), torch.float32)
    case.grad_output = case.grad_output.to(memory_format=torch.channels_last_3d)
    actual = case.run(mx.batch_norm, True)
    expected = case.contiguous().double().run(torch_batch_norm, True)
    check_roundings(actual, expected, case, True)
