"""The operators: opcheck, torch.compile and export, the same bits for every thread count, size."""

import pytest
import torch
from cross_entropy_cases import DTYPES, indices, logits, loss_and_gradient, probabilities
from support import ND_LAYOUTS, threads

import makemore_ext as mx
from makemore_ext._native import operators

# Torch's own tracing makes an instance of every autograd Function it meets.
traces_a_function = pytest.mark.filterwarnings("ignore:.*should not be instantiated")

OPTIONS = (1, -100, 0.1, 0.01)  # reduction, ignore_index, label_smoothing, lse_square_scale


# Every shape with every reduction; each dtype with some of either.
SHAPES = ((6, 5), (2, 5, 3), (5,))
CALLS = [
    (shape, reduction, DTYPES[(row + reduction) % len(DTYPES)])
    for row, shape in enumerate(SHAPES)
    for reduction in (0, 1, 2)
]


@pytest.mark.parametrize(("shape", "reduction", "dtype"), CALLS, ids=str)
def test_opcheck(shape, reduction, dtype):
    input, target = logits(shape, dtype), indices(shape)
    options = (reduction, *OPTIONS[1:])
    forward = operators.cross_entropy_forward.default
    torch.library.opcheck(forward, (input, target, None, *options))
    loss, statistics, total, _ = forward(input, target, None, *options)
    backward = (torch.ones_like(loss), None, input, target, None, statistics, total, *options)
    torch.library.opcheck(operators.cross_entropy_backward.default, backward)
    torch.library.opcheck(operators.cross_entropy_backward_.default, backward)
    if reduction != 0:
        torch.library.opcheck(
            operators.cross_entropy_forward_with_gradient.default, (input, target, None, *options)
        )


@pytest.mark.parametrize("layout", ND_LAYOUTS.values(), ids=ND_LAYOUTS)
@pytest.mark.parametrize("shape", [(6, 5), (2, 5, 3)], ids=str)
def test_the_strides_that_tracing_expects(shape, layout):
    input, target = layout(logits(shape, torch.float32)), indices(shape)
    options = (1, *OPTIONS[1:])
    check = {"test_utils": "test_faketensor"}
    loss, statistics, total, _ = operators.cross_entropy_forward(input, target, None, *options)
    backward = (torch.ones_like(loss), None, input, target, None, statistics, total, *options)
    torch.library.opcheck(operators.cross_entropy_backward.default, backward, **check)
    with_gradient = operators.cross_entropy_forward_with_gradient.default
    torch.library.opcheck(with_gradient, (input, target, None, *options), **check)


@traces_a_function
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("reduction", ["mean", "none"])
def test_compile(reduction, kind):
    shape = (6, 5)
    target = indices(shape) if kind == "indices" else probabilities(shape, torch.float32)

    def function(input, target, **options):
        return mx.cross_entropy(2 * input, target, label_smoothing=0.1, **options)

    compiled = torch.compile(function, fullgraph=True, backend="aot_eager")
    input = logits(shape, torch.float32)
    ours = loss_and_gradient(compiled, input, target, reduction=reduction)
    eager = loss_and_gradient(function, input, target, reduction=reduction)
    torch.testing.assert_close(ours, eager)


@traces_a_function
def test_compile_for_any_batch():
    compiled = torch.compile(mx.cross_entropy, fullgraph=True, backend="aot_eager", dynamic=True)
    for rows in (4, 7, 33):
        input, target = logits((rows, 5), torch.float32), indices((rows, 5))
        torch.testing.assert_close(
            loss_and_gradient(compiled, input, target),
            loss_and_gradient(mx.cross_entropy, input, target),
        )


def test_export():
    class Loss(torch.nn.Module):
        def forward(self, input, target):
            return mx.cross_entropy(input, target)

    input, target = logits((6, 5), torch.float32), indices((6, 5))
    exported = torch.export.export(Loss(), (input, target))
    torch.testing.assert_close(exported.module()(input, target), mx.cross_entropy(input, target))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("kind", ["indices", "probabilities"])
@pytest.mark.parametrize("shape", [(32, 27), (3000, 40), (70, 5000), (3, 21, 64, 65)])
def test_same_bits_for_every_thread_count_and_run(shape, kind, dtype):
    input = logits(shape, dtype)
    target = indices(shape) if kind == "indices" else probabilities(shape, dtype)
    results = []
    for count in (1, 2, 3, 2):
        with threads(count):
            results.append(loss_and_gradient(mx.cross_entropy, input, target))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(2**16 + 1, 2**15), (3, 2**15, 22_000)])
def test_more_than_2_31_elements(shape):
    """Takes 9 GB: the logits are overwritten by their gradient."""
    assert torch.Size(shape).numel() > 2**31
    row = torch.linspace(-3, 3, shape[1], dtype=torch.bfloat16)
    row = row.view(1, -1, *([1] * (len(shape) - 2)))
    values = torch.empty(shape, dtype=torch.bfloat16).copy_(row.expand(shape))
    target = torch.full((shape[0], *shape[2:]), shape[1] - 1)
    anchor = torch.zeros((), dtype=torch.bfloat16, requires_grad=True)
    hidden = _Anchored.apply(anchor, values)
    losses = mx.cross_entropy(hidden, target, reduction="none", inplace_backward=True)
    losses.backward(torch.ones_like(losses))
    assert (losses == losses.flatten()[0]).all()
    small = row.movedim(1, -1).reshape(1, -1).clone().requires_grad_()
    loss = mx.cross_entropy(small, torch.tensor([shape[1] - 1]))
    (expected,) = torch.autograd.grad(loss, small)
    torch.testing.assert_close(losses.flatten()[-1], loss.detach())
    for index in (0, -1):
        at = (index, slice(None), *(index for _ in shape[2:]))
        torch.testing.assert_close(hidden.detach()[at], expected[0], rtol=0, atol=0)


class _Anchored(torch.autograd.Function):
    """Values as an operation gives them, without a copy."""

    @staticmethod
    def forward(ctx, anchor, values):
        return values.view_as(values)

    @staticmethod
    def backward(ctx, gradient):
        return None, None
