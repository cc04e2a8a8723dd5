"""Values and gradients, against torch; for how exact they are see test_accuracy.py."""

import pytest
import torch
from cross_entropy_cases import (
    CASES,
    DTYPES,
    OPTIONS,
    WIDE,
    indices,
    logits,
    loss_and_gradient,
    probabilities,
    with_weight,
)
from support import seeded
from torch.nn import functional as F

import makemore_ext as mx


@pytest.mark.parametrize("dtype", WIDE)
@pytest.mark.parametrize(("make_target", "options", "shape"), CASES)
def test_agrees_with_torch(make_target, options, shape, dtype):
    input, target = logits(shape, dtype), make_target(shape, dtype)
    options = with_weight(options, shape, dtype)
    ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
    theirs = loss_and_gradient(F.cross_entropy, input, target, **options)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("shape", [(17, 8), (2, 21, 16, 16)])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_narrow_indices(options, shape):
    input, target = logits(shape, torch.float32), indices(shape)
    options = with_weight(options, shape, torch.float32)
    actual = loss_and_gradient(mx.cross_entropy, input, target.to(torch.uint8), **options)
    expected = loss_and_gradient(mx.cross_entropy, input, target, **options)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


def test_a_mean_over_many_rows_does_not_overflow():
    input = torch.zeros(70_000, 4, dtype=torch.float16)
    loss = mx.cross_entropy(input, torch.zeros(70_000, dtype=torch.int64))
    assert loss.item() == pytest.approx(1.3863, rel=1e-3)
    assert F.cross_entropy(input, torch.zeros(70_000, dtype=torch.int64)).isnan()


INFINITIES = {
    "-inf elsewhere": ([0.0, -torch.inf, 1.0], 0),
    "-inf at the target": ([0.0, -torch.inf, 1.0], 1),
    "all -inf": ([-torch.inf] * 3, 0),
    "inf": ([0.0, torch.inf, 1.0], 0),
    "inf at the target": ([0.0, torch.inf, 1.0], 1),
    "nan": ([0.0, torch.nan, 1.0], 0),
    "nan in an ignored row": ([0.0, torch.nan, 1.0], -100),
    "inf in an ignored row": ([0.0, torch.inf, 1.0], -100),
    "-inf in an ignored row": ([0.0, -torch.inf, 1.0], -100),
}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("label_smoothing", [0.0, 0.2])
@pytest.mark.parametrize(("row", "target"), INFINITIES.values(), ids=INFINITIES)
def test_infinities_and_nans_as_torch(row, target, label_smoothing, reduction, layout, dtype):
    input = torch.tensor([row, [0.5, 0.25, -1.0]], dtype=dtype)
    targets = torch.tensor([target, 2])
    if layout == "columns":
        input, targets = input.t().repeat(2, 1, 17), targets.repeat(2, 17)
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    ours = loss_and_gradient(mx.cross_entropy, input, targets, **options)
    wide = torch.promote_types(dtype, torch.float32)
    theirs = loss_and_gradient(F.cross_entropy, input.to(wide), targets, **options)
    theirs = tuple(tensor.to(dtype) for tensor in theirs)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("where", ["at -inf", "elsewhere"])
def test_minus_infinity_with_probabilities_as_torch(where):
    input = torch.tensor([[0.0, -torch.inf, 1.0], [0.5, 0.25, -1.0]])
    target = torch.tensor([[0.5, 0.0 if where == "elsewhere" else 0.2, 0.5], [0.2, 0.3, 0.5]])
    ours = loss_and_gradient(mx.cross_entropy, input, target, reduction="none")
    theirs = loss_and_gradient(F.cross_entropy, input, target, reduction="none")
    torch.testing.assert_close(ours, theirs, equal_nan=True)


EMPTY = {
    "no rows": ((0, 5), torch.int64),
    "no classes": ((0, 0), torch.int64),
    "no pixels": ((2, 3, 0), torch.int64),
    "rows without classes": ((2, 0), torch.int64),
    "no rows, probabilities": ((0, 3), torch.float32),
    "rows without classes, probabilities": ((2, 0), torch.float32),
    "no pixels, probabilities": ((2, 3, 0), torch.float32),
    "all ignored": ((4, 5), torch.int64),
    "all ignored pixels": ((2, 5, 4, 5), torch.int64),
}


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("shape", "dtype"), EMPTY.values(), ids=EMPTY)
def test_nothing_to_average(shape, dtype, reduction, label_smoothing):
    input = logits(shape, torch.float32)
    rows = shape if dtype.is_floating_point else (shape[0], *shape[2:])
    target = torch.full(rows, 0.0 if dtype.is_floating_point else -100, dtype=dtype)
    options = {"reduction": reduction, "label_smoothing": label_smoothing}
    ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
    theirs = loss_and_gradient(F.cross_entropy, input, target, **options)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_large_logits_do_not_overflow():
    input = torch.tensor([[3e38, -3e38, 2.9e38]])
    ours = loss_and_gradient(mx.cross_entropy, input, torch.tensor([2]))
    theirs = loss_and_gradient(F.cross_entropy, input, torch.tensor([2]))
    torch.testing.assert_close(ours, theirs)


# About the widths of vectors, and more rows than are taken at a time but no multiple of that.
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("options", [{}, {"label_smoothing": 0.1}], ids=["plain", "smoothing"])
@pytest.mark.parametrize("classes", [*range(1, 36), 63, 64, 65, 80, 81, 96, 97, 100, 128, 129])
def test_few_classes(classes, options, dtype):
    input = logits((21, classes), dtype)
    target = indices(input.shape)
    expected = loss_and_gradient(F.cross_entropy, input.double(), target, **options)
    rounded = [value.to(dtype) for value in expected]
    for x in (input, input.repeat(1, 2)[:, ::2].copy_(input)):  # strided: rows are copied first
        actual = loss_and_gradient(mx.cross_entropy, x, target, **options)
        torch.testing.assert_close(list(actual), rounded)


@pytest.mark.parametrize("dtype", WIDE)
def test_a_row_does_not_depend_on_its_place(dtype):
    input = logits((1, 27), dtype).repeat(37, 1)
    target = indices(input.shape)[:1].repeat(37)
    loss, gradient = loss_and_gradient(mx.cross_entropy, input, target, reduction="sum")
    torch.testing.assert_close(gradient, gradient[:1].expand(37, 27), rtol=0, atol=0)
    losses = mx.cross_entropy(input, target, reduction="none")
    torch.testing.assert_close(losses, losses[:1].expand(37), rtol=0, atol=0)
    torch.testing.assert_close(losses.sum(), loss)


@pytest.mark.parametrize("classes", [9000, 20000])
@pytest.mark.parametrize("order", ["rising", "falling", "-inf first"])
def test_rows_that_are_read_in_chunks(order, classes):
    input = torch.linspace(-50, 50, classes).repeat(3, 1)
    if order == "falling":
        input = input.flip(1)
    if order == "-inf first":
        input[:, : classes - 100] = -torch.inf
    target = torch.tensor([classes - 1, classes - 2, classes - 50])
    for arrange in (lambda x: x, lambda x: x.t().repeat(1, 1, 8).view(1, classes, 24)):
        x, t = arrange(input), target if arrange(input).dim() == 2 else target.repeat(8).view(1, 24)
        ours = loss_and_gradient(mx.cross_entropy, x, t)
        theirs = loss_and_gradient(F.cross_entropy, x.double(), t)
        torch.testing.assert_close(ours, theirs, check_dtype=False)


@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize("size_average", [None, True, False])
@pytest.mark.parametrize("reduce", [None, True, False])
def test_deprecated_arguments_as_torch(size_average, reduce):
    input, target = logits((6, 5), torch.float32), indices((6, 5))
    options = {"size_average": size_average, "reduce": reduce}
    torch.testing.assert_close(
        mx.cross_entropy(input, target, **options), F.cross_entropy(input, target, **options)
    )


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("kind", ["index", "probabilities", "weight"])
def test_autocast_as_torch(kind, dtype):
    input = logits((6, 5), dtype)
    target = probabilities((6, 5), torch.float32) if kind == "probabilities" else indices((6, 5))
    options = {"weight": torch.rand(5, generator=seeded(2))} if kind == "weight" else {}
    with torch.autocast("cpu", dtype):
        ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
        theirs = loss_and_gradient(F.cross_entropy, input, target, **options)
    torch.testing.assert_close(ours, theirs)


MIXED = {
    "probabilities in float64": (torch.float32, torch.float64, None),
    "probabilities in float16": (torch.float32, torch.float16, None),
    "logits in float16": (torch.float16, torch.float32, None),
    "weight in float64": (torch.float32, torch.float32, torch.float64),
}


@pytest.mark.parametrize(("dtype", "target_dtype", "weight_dtype"), MIXED.values(), ids=MIXED)
def test_dtypes_are_promoted_as_torch(dtype, target_dtype, weight_dtype):
    input, target = logits((6, 5), dtype), probabilities((6, 5), target_dtype)
    options = (
        {}
        if weight_dtype is None
        else {"weight": torch.rand(5, dtype=weight_dtype, generator=seeded(2))}
    )
    ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
    theirs = loss_and_gradient(F.cross_entropy, input, target, **options)
    torch.testing.assert_close(ours, theirs, rtol=2e-3, atol=2e-4)
