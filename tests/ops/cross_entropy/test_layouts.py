"""Strides of logits, targets and upstream gradients: the values are those of contiguous tensors."""

from math import prod

import pytest
import support
import torch
from cross_entropy_cases import (
    DTYPES,
    doubled,
    indices,
    logits,
    loss_and_gradient,
    probabilities,
    second_gradients,
    with_weight,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LAYOUTS, seeded
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

ND_LAYOUTS = {
    **support.ND_LAYOUTS,
    "expanded batch": lambda tensor: tensor[:1].expand_as(tensor),
    "expanded classes": lambda tensor: tensor[:, :1].expand_as(tensor),
}
ND_SHAPES = ((3, 5), (40, 33), (2, 5, 33), (2, 21, 6, 17), (3, 4, 2, 3, 5), (2, 600, 9))
OPTIONS = {
    "mean": {},
    "none": {"reduction": "none"},
    "weight and smoothing": {"weight": True, "label_smoothing": 0.1, "ignore_index": 0},
}


def check_against_torch(input: Tensor, target: Tensor, **options):
    """Values of torch in float64, from a contiguous copy."""
    direction = torch.empty_like(input).copy_(logits(input.shape, input.dtype, seed=3))
    ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
    ours += second_gradients(mx.cross_entropy, input, target, direction, **options)
    target = target.contiguous() if target.is_floating_point() else target.long()
    exact = doubled({"target": target, **options})
    input = input.double().contiguous()
    truth = loss_and_gradient(F.cross_entropy, input, **exact)
    truth += second_gradients(F.cross_entropy, input, direction=direction.double(), **exact)
    for actual, expected in zip(ours, truth, strict=True):
        assert actual.shape == expected.shape
        torch.testing.assert_close(actual, expected.to(actual.dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layouts_of_rows(layout, dtype):
    input, target = logits((33, 41), dtype), indices((33, 41))
    check_against_torch(layout(input), target)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("shape", ND_SHAPES, ids=str)
def test_layouts_of_logits(shape, layout, options, dtype):
    input, target = logits(shape, dtype), indices(shape)
    check_against_torch(layout(input), target, **with_weight(options, shape, dtype))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", [*OPTIONS, "probabilities"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "expanded batch"])
@pytest.mark.parametrize("classes", range(2, 6))
@pytest.mark.parametrize("pixels", [(), (7, 5)], ids=["rows", "pixels"])
def test_few_classes(pixels, classes, layout, kind, dtype):
    """Whose rows are a lane of a vector each, wherever they lie."""
    shape = (67, classes, *pixels)
    input, options = ND_LAYOUTS[layout](logits(shape, dtype)), OPTIONS.get(kind, {})
    target = probabilities(shape, dtype) if kind == "probabilities" else indices(shape)
    check_against_torch(input, target, **with_weight(options, shape, dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("options", ["mean", "none"])
@pytest.mark.parametrize("layout", ["contiguous", "offset", "row padding", "transposed"])
def test_gradients_too_large_for_the_caches(layout, options, dtype):
    """Written past them, in rows that start anywhere; several chunks, with new maxima."""
    shape = (999, 4201)
    input = logits(shape, dtype) + torch.linspace(0, 40, shape[1]).to(dtype)
    check_against_torch(LAYOUTS[layout](input), indices(shape), **OPTIONS[options])


@pytest.mark.parametrize("options", ["mean", "none"])
@pytest.mark.parametrize("target_layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "permuted"])
@pytest.mark.parametrize("shape", [(40, 33), (2, 21, 6, 17)], ids=str)
def test_layouts_of_probabilities(shape, layout, target_layout, options):
    input, target = logits(shape, torch.float32), probabilities(shape, torch.float32)
    check_against_torch(ND_LAYOUTS[layout](input), target_layout(target), **OPTIONS[options])


@pytest.mark.parametrize("narrow", [torch.int64, torch.uint8])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
@pytest.mark.parametrize(
    "arrange",
    [
        lambda target: target.mT.contiguous().mT,
        lambda target: target[:1].expand_as(target),
        lambda target: target[..., :1, :1].expand_as(target),
        lambda target: torch.stack([target, target + 200], dim=-1)[..., 0],
    ],
    ids=["transposed", "expanded batch", "expanded pixels", "every other"],
)
def test_layouts_of_indices(arrange, layout, narrow):
    shape = (2, 21, 6, 17)
    input, target = ND_LAYOUTS[layout](logits(shape, torch.float32)), indices(shape, narrow)
    check_against_torch(input, arrange(target))


@pytest.mark.parametrize(
    "strides", [(1,), (3,), (0,)], ids=["contiguous", "every third", "expanded"]
)
@pytest.mark.parametrize("kind", [torch.int64, torch.uint8, torch.float32])
def test_layouts_of_a_single_row(kind, strides):
    input = torch.randn(200, generator=seeded()).as_strided((27,), strides)
    target = probabilities((27,), kind) if kind.is_floating_point else indices((27,), kind)
    check_against_torch(input, target)


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_many_dimensions_that_cannot_be_joined(reduction, kind):
    shape = (2, 3, *(2,) * 9)
    wide = logits(tuple(2 * size for size in shape), torch.float32)
    input = wide[tuple(slice(None, None, 2) for _ in shape)]
    target = indices(shape) if kind == "indices" else probabilities(shape, torch.float32)
    check_against_torch(input, target, reduction=reduction)


@pytest.mark.parametrize("layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_strides_of_the_gradient_of_a_leaf_as_torch(reduction, layout):
    strides = []
    for function in (mx.cross_entropy, F.cross_entropy):
        input = layout(logits((2, 21, 6, 17), torch.float32)).requires_grad_()
        function(input, indices((2, 21, 6, 17)), reduction=reduction).sum().backward()
        strides.append(input.grad.stride())
    assert strides[0] == strides[1]


@pytest.mark.parametrize("layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("reduction", ["none", "mean"])
def test_the_gradient_has_the_memory_order_of_the_logits(reduction, layout):
    # What computed the logits in channels last wants its gradient so; torch's is in C order.
    input = layout(logits((2, 21, 6, 17), torch.float32))
    gradient = loss_and_gradient(
        mx.cross_entropy, input, indices((2, 21, 6, 17)), reduction=reduction
    )[1]
    assert gradient.stride() == torch.empty_like(input).stride()


@pytest.mark.parametrize(
    "grad",
    [
        torch.tensor(0.75).expand(2, 6, 17),
        torch.linspace(0.5, 2, 2 * 204).view(2, 6, 34)[..., ::2],
        torch.linspace(0.5, 2, 204).view(17, 6, 2).permute(2, 1, 0),
    ],
    ids=["expanded", "every other", "permuted"],
)
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_layouts_of_the_upstream_gradient(layout, grad):
    input = ND_LAYOUTS[layout](logits((2, 21, 6, 17), torch.float32)).requires_grad_()
    target = indices((2, 21, 6, 17))
    ours, theirs = (
        torch.autograd.grad(function(input, target, reduction="none"), input, grad)
        for function in (mx.cross_entropy, F.cross_entropy)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("direction_layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("layout", ["contiguous", "channels last", "permuted"])
@pytest.mark.parametrize("shape", [(40, 33), (2, 21, 6, 17), (2, 3, 6, 17)], ids=str)
def test_layouts_of_the_gradient_of_the_gradient(shape, layout, direction_layout, dtype):
    input, direction = (ND_LAYOUTS[layout](logits(shape, dtype)), logits(shape, dtype, seed=3))
    arguments = {"target": indices(shape), "label_smoothing": 0.1}
    direction = direction_layout(direction)
    ours = second_gradients(mx.cross_entropy, input, direction=direction, **arguments)
    input, direction = input.double(), direction.double().contiguous()
    truth = second_gradients(F.cross_entropy, input, direction=direction, **arguments)
    for actual, expected in zip(ours, truth, strict=True):
        torch.testing.assert_close(actual, expected.to(dtype))


def test_sum_of_unreduced_losses():
    # sum gives its upstream gradient as an expanded tensor.
    input = logits((8, 27), torch.float32).requires_grad_()
    target = indices((8, 27))
    (actual,) = torch.autograd.grad(mx.cross_entropy(input, target, reduction="none").sum(), input)
    (expected,) = torch.autograd.grad(mx.cross_entropy(input, target, reduction="sum"), input)
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", ["none", "mean"])
@pytest.mark.parametrize("layout", ["contiguous", "channels last"])
def test_nothing_given_is_changed(layout, reduction, kind):
    shape = (2, 21, 6, 17)
    target = indices(shape) if kind == "indices" else probabilities(shape, torch.float32)
    weight = torch.rand(21, generator=seeded())
    given = [ND_LAYOUTS[layout](logits(shape, torch.float32)), target, weight]
    grad = torch.full((2, 6, 17) if reduction == "none" else (), 0.5)
    given.append(grad)
    before = [tensor.clone() for tensor in given]
    input = given[0].requires_grad_()
    options = {"weight": weight, "reduction": reduction, "label_smoothing": 0.1}
    mx.cross_entropy(input, target, **options).backward(grad)
    for tensor, copy in zip(given, before, strict=True):
        assert torch.equal(tensor, copy)
        assert tensor._version == 0


@st.composite
def strided(draw, shape: tuple[int, ...], make) -> Tensor:
    """The tensor in memory of another order, with gaps, an offset and repeated dimensions."""
    tensor = make(shape)
    order = draw(st.permutations(range(len(shape))))
    steps = [draw(st.integers(1, 2)) for _ in shape]
    wide = [tensor.shape[dim] * step for dim, step in zip(order, steps, strict=True)]
    offset = draw(st.integers(0, 3))
    memory = torch.zeros(offset + prod(wide), dtype=tensor.dtype)
    view = memory[offset:].view(wide)[tuple(slice(None, None, step) for step in steps)]
    view = view.permute(sorted(range(len(shape)), key=order.__getitem__)).copy_(tensor)
    repeated = draw(st.none() | st.sampled_from(range(len(shape)))) if shape else None
    if repeated is not None and view.shape[repeated] > 0:
        view = view.narrow(repeated, 0, 1).expand_as(view)
    return view


@st.composite
def problems(draw) -> tuple[Tensor, Tensor, dict]:
    dims = draw(st.integers(1, 5))
    shape = tuple(draw(st.integers(0 if i != 1 and dims > 1 else 1, 9)) for i in range(dims))
    if draw(st.booleans()):  # one long dimension, where vectors and their remainders are
        long = draw(st.integers(0, dims - 1))
        shape = (*shape[:long], draw(st.integers(10, 80)), *shape[long + 1 :])
    seed = draw(st.integers(0, 2**16))
    kind = draw(st.sampled_from([torch.int64, torch.uint8, torch.float32]))
    input = draw(strided(shape, lambda shape: logits(shape, torch.float32, seed)))
    if kind.is_floating_point:
        target = draw(strided(shape, lambda shape: probabilities(shape, kind, seed)))
    else:
        rows = () if dims == 1 else (shape[0], *shape[2:])
        target = draw(strided(rows, lambda _: indices(shape, kind, seed)))
    options: dict = {"reduction": draw(st.sampled_from(["none", "mean", "sum"]))}
    if draw(st.booleans()):
        options["label_smoothing"] = draw(st.sampled_from([0.1, 1.0]))
    if draw(st.booleans()):
        options["weight"] = (
            torch.rand(shape[0] if dims == 1 else shape[1], generator=seeded(seed)) + 0.5
        )
    if draw(st.booleans()) and not kind.is_floating_point:
        options["ignore_index"] = 0
    return input, target, options


@settings(deadline=None, max_examples=200)
@given(problems())
def test_any_shape_and_strides(problem):
    input, target, options = problem
    ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
    target = target if target.is_floating_point() else target.long()  # torch's N-D have no uint8
    theirs = loss_and_gradient(F.cross_entropy, input, target, **options)
    torch.testing.assert_close(ours, theirs, equal_nan=True)
