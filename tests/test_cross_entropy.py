import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LAYOUTS, error, spacing, threads
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

DTYPES = (torch.float32, torch.float64)
SHAPES = ((32, 27), (1, 1), (2, 1), (1, 8), (3, 5), (17, 8), (5, 33), (64, 130), (3, 5000))
OPTIONS = {
    "plain": {},
    "sum": {"reduction": "sum"},
    "none": {"reduction": "none"},
    "ignore": {"ignore_index": 0},
    "ignore none": {"ignore_index": 0, "reduction": "none"},
    "smoothing": {"label_smoothing": 0.1},
    "all smoothing": {"label_smoothing": 1.0, "reduction": "sum"},
    "weight": {"weight": True},
    "weight ignore smoothing": {"weight": True, "ignore_index": 0, "label_smoothing": 0.3},
    "size_average": {"size_average": False},
    "reduce": {"reduce": False},
}


def make(shape: tuple[int, int], dtype: torch.dtype, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    input = torch.randn(shape, dtype=dtype, generator=generator) * 3
    target = torch.randint(0, shape[1], shape[:1], generator=generator)
    return input, target


def with_weight(options: dict, classes: int, dtype: torch.dtype) -> dict:
    if not options.get("weight"):
        return options
    generator = torch.Generator().manual_seed(1)
    return {**options, "weight": torch.rand(classes, dtype=dtype, generator=generator) + 0.5}


def loss_and_gradient(function, input: Tensor, target: Tensor, **options) -> tuple[Tensor, Tensor]:
    input = input.detach().requires_grad_()
    loss = function(input, target, **options)
    grad_output = torch.linspace(0.5, 2, loss.numel(), dtype=loss.dtype).view(loss.shape)
    return loss.detach(), torch.autograd.grad(loss, input, grad_output)[0]


# The deprecated arguments warn in torch; here they are compared, not advertised.
@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_agrees_with_torch(options, shape, dtype):
    input, target = make(shape, dtype)
    options = with_weight(options, shape[1], dtype)
    ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
    theirs = loss_and_gradient(F.cross_entropy, input, target, **options)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("options", ["plain", "none", "smoothing", "weight"])
def test_at_least_as_close_to_the_truth_as_torch(options, shape):
    input, target = make(shape, torch.float32)
    options = with_weight(OPTIONS[options], shape[1], torch.float32)
    exact = {k: v.double() if isinstance(v, Tensor) else v for k, v in options.items()}
    ours = loss_and_gradient(mx.cross_entropy, input, target, **options)
    theirs = loss_and_gradient(F.cross_entropy, input, target, **options)
    truth = loss_and_gradient(F.cross_entropy, input.double(), target, **exact)
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        assert error(mine, true) <= max(error(other, true), 2 * spacing(true, torch.float32))


def test_confident_row_keeps_its_digits():
    # log p = -1.2e-5 here: a sum of exponentials in float32 leaves it two digits.
    input = torch.tensor([[12.0, 0.0, 0.0]])
    loss, gradient = loss_and_gradient(mx.cross_entropy, input, torch.tensor([0]))
    truth = loss_and_gradient(F.cross_entropy, input.double(), torch.tensor([0]))
    torch.testing.assert_close(loss.double(), truth[0], rtol=1e-6, atol=0)
    torch.testing.assert_close(gradient.double(), truth[1], rtol=1e-6, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_the_logits_does_not_matter(layout, dtype):
    input, target = make((33, 41), dtype)
    expected = loss_and_gradient(mx.cross_entropy, input, target)
    actual = loss_and_gradient(mx.cross_entropy, layout(input), target)
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", DTYPES)
def test_expanded_logits_targets_and_gradient(dtype):
    input = make((1, 27), dtype)[0].requires_grad_()
    target = torch.tensor([3]).expand(8)
    losses = mx.cross_entropy(input.expand(8, 27), target, reduction="none")
    (actual,) = torch.autograd.grad(losses.sum(), input)  # sum gives a gradient of stride 0
    losses = F.cross_entropy(input.expand(8, 27), target, reduction="none")
    (expected,) = torch.autograd.grad(losses.sum(), input)
    torch.testing.assert_close(actual, expected)


def test_strided_target():
    input, target = make((16, 9), torch.float32)
    strided = torch.stack([target, target + 1000], dim=1)[:, 0]
    assert torch.equal(mx.cross_entropy(input, strided), mx.cross_entropy(input, target))


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
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize(("row", "target"), INFINITIES.values(), ids=INFINITIES)
def test_infinities_and_nans_as_torch(row, target, reduction, dtype):
    input = torch.tensor([row, [0.5, 0.25, -1.0]], dtype=dtype)
    targets = torch.tensor([target, 2])
    ours = loss_and_gradient(mx.cross_entropy, input, targets, reduction=reduction)
    theirs = loss_and_gradient(F.cross_entropy, input, targets, reduction=reduction)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("reduction", ["none", "mean", "sum"])
@pytest.mark.parametrize("case", ["empty batch", "all ignored"])
def test_nothing_to_average(case, reduction, dtype):
    rows = 0 if case == "empty batch" else 4
    input = make((rows, 5), dtype)[0]
    target = torch.full((rows,), -100)
    ours = loss_and_gradient(mx.cross_entropy, input, target, reduction=reduction)
    theirs = loss_and_gradient(F.cross_entropy, input, target, reduction=reduction)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


def test_large_logits_do_not_overflow():
    input = torch.tensor([[3e38, -3e38, 2.9e38]])
    ours = loss_and_gradient(mx.cross_entropy, input, torch.tensor([2]))
    theirs = loss_and_gradient(F.cross_entropy, input, torch.tensor([2]))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
@pytest.mark.filterwarnings("ignore:size_average and reduce args will be deprecated")
def test_derivatives(check, options):
    input, target = make((5, 4), torch.float64)
    options = with_weight(options, 4, torch.float64)
    assert check(lambda x: mx.cross_entropy(x, target, **options), input.requires_grad_())


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(0, 40),
    classes=st.integers(1, 70),
    row_stride=st.integers(0, 3),
    offset=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
def test_any_shape_and_stride(rows, classes, row_stride, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    memory = torch.randn(offset + (rows + 1) * classes * 3 * 2, generator=generator)
    input = memory.as_strided((rows, classes), (row_stride * classes, 2), offset)
    target = torch.randint(0, classes, (rows,), generator=generator)
    ours = loss_and_gradient(mx.cross_entropy, input, target)
    theirs = loss_and_gradient(F.cross_entropy, input, target)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(32, 27), (3000, 40), (70, 5000)])
def test_same_bits_for_every_thread_count_and_run(shape, dtype):
    input, target = make(shape, dtype)
    results = []
    for count in (1, 2, 3, 2):
        with threads(count):
            results.append(loss_and_gradient(mx.cross_entropy, input, target))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_nothing_given_is_changed():
    input, target = make((40, 30), torch.float32)
    weight = torch.rand(30)
    before = [tensor.clone() for tensor in (input, target, weight)]
    loss_and_gradient(mx.cross_entropy, input, target, weight=weight)
    for tensor, copy in zip((input, target, weight), before, strict=True):
        assert torch.equal(tensor, copy)


LOGITS, TARGET = make((4, 3), torch.float32)
BAD = {
    "target too large": ({"target": torch.tensor([0, 1, 3, 2])}, IndexError, "Target 3 is out"),
    "target negative": ({"target": torch.tensor([0, -1, 2, 2])}, IndexError, "Target -1 is out"),
    "target length": ({"target": TARGET[:3]}, ValueError, "batch_size"),
    "target dtype": ({"target": TARGET.int()}, NotImplementedError, "target must be int64"),
    "target shape": ({"target": torch.rand(4, 3)}, NotImplementedError, "target must be"),
    "target type": ({"target": [0, 1, 2, 0]}, TypeError, "target must be a Tensor"),
    "target device": ({"target": TARGET.to("meta")}, ValueError, "target must be on cpu"),
    "input dtype": ({"input": LOGITS.half()}, NotImplementedError, "input must be float32"),
    "input integer": ({"input": LOGITS.long()}, NotImplementedError, "input must be float32"),
    "input dimensions": ({"input": LOGITS[0]}, NotImplementedError, "2 dimensions"),
    "input type": ({"input": [[0.0]]}, TypeError, "input must be a Tensor"),
    "input layout": ({"input": LOGITS.to_sparse()}, NotImplementedError, "dense"),
    "weight length": ({"weight": torch.rand(2)}, ValueError, r"shape \[3\]"),
    "weight dtype": ({"weight": torch.rand(3).double()}, ValueError, "weight must be"),
    "weight gradient": (
        {"weight": torch.rand(3, requires_grad=True)},
        NotImplementedError,
        "must not require",
    ),
    "reduction": ({"reduction": "avg"}, ValueError, "avg is not a valid value for reduction"),
    "label_smoothing": ({"label_smoothing": 1.5}, RuntimeError, "between 0.0 and 1.0"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(arguments, kind, message):
    with pytest.raises(kind, match=message) as caught:
        mx.cross_entropy(**{"input": LOGITS, "target": TARGET, **arguments})
    assert "\n" not in str(caught.value)


def test_operators_pass_opcheck():
    input, target = make((6, 5), torch.float32)
    forward = torch.ops.makemore_ext.cross_entropy_forward.default
    options = (1, -100, 0.1)
    torch.library.opcheck(forward, (input, target, None, *options))
    _, lse, total_weight = forward(input, target, None, *options)
    torch.library.opcheck(
        torch.ops.makemore_ext.cross_entropy_backward.default,
        (torch.tensor(1.0), input, target, None, lse, total_weight, *options),
    )
