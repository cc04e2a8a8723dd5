"""Values, gradients and running statistics, against torch. Of their errors see test_accuracy.py."""

import pytest
import torch
from batch_norm_cases import (
    ACTIVATIONS,
    SHAPES,
    WIDE,
    Case,
    step_by_step,
    terms,
    torch_batch_norm,
)
from support import error, seeded, spacing
from torch.nn import functional as F

import makemore_ext as mx

shapes = pytest.mark.parametrize("shape", SHAPES, ids=str)
training_or_not = pytest.mark.parametrize("training", [True, False])
activations = pytest.mark.parametrize("activation", ACTIVATIONS)


# Torch's tolerances are right for what is made of terms of order 1.
def check_close(ours, theirs, sizes):
    for mine, other, size in zip(ours, theirs, sizes, strict=True):
        assert mine.dtype == other.dtype
        scale = size.max().item()
        torch.testing.assert_close(mine / scale, other / scale)


@shapes
@activations
@training_or_not
@pytest.mark.parametrize("dtype", WIDE)
def test_agrees_with_torch(shape, activation, training, dtype):
    case = Case(shape, dtype)
    if activation == "relu":
        case.leave_out_kinks(training)
    ours = case.run(mx.batch_norm, training, activation=activation)
    theirs = case.run(torch_batch_norm, training, activation=activation)
    check_close(ours, theirs, terms(case, training))


@pytest.mark.parametrize("correction", [0, 1])
def test_running_variance_is_unbiased_whatever_the_correction(correction):
    case = Case((6, 3, 2), torch.float64)
    *_, mean, var = case.run(mx.batch_norm, True, momentum=0.25, correction=correction)
    flat = case.input.transpose(0, 1).flatten(1)
    torch.testing.assert_close(mean, 0.75 * case.running_mean + 0.25 * flat.mean(1))
    torch.testing.assert_close(var, 0.75 * case.running_var + 0.25 * flat.var(1, correction=1))


EXTREMES = {
    "near the limit": (torch.float32, 3e38, 1e38),
    "far apart": (torch.float32, 0.0, 1e38),
    "limit of bfloat16": (torch.bfloat16, 0.0, 1e38),
    "limit of float16": (torch.float16, 6e4, 1e3),
    "large mean": (torch.float32, 1e36, 1e31),
    "float64 far apart": (torch.float64, 0.0, 1e307),
    "float64 near the limit": (torch.float64, 1.5e308, 1e306),
}


@pytest.mark.parametrize(("dtype", "mean", "scale"), EXTREMES.values(), ids=EXTREMES)
@pytest.mark.parametrize("shape", [(64, 5), (40, 5, 3), (4, 5, 100), (3000, 5)], ids=str)
@activations
def test_no_overflow_where_the_result_is_finite(shape, dtype, mean, scale, activation):
    generator = seeded()
    unit = torch.rand(shape, dtype=torch.float64, generator=generator) * 2 - 1
    case = Case(shape, dtype, parameter_dtype=torch.promote_types(dtype, torch.float32))
    case.input = (unit * (scale / 4) + mean).to(dtype)
    # The truth from values that were scaled down; eps is nothing beside either.
    small = case.double()
    small.input = case.input.double() * 0.5**900 if dtype == torch.float64 else case.input.double()
    eps = 0.0 if dtype == torch.float64 else 1e-5
    truth = small.run(step_by_step, True, eps=eps, activation=activation)
    ours = case.run(mx.batch_norm, True, activation=activation)
    assert all(result.isfinite().all() for result in ours[:4])
    for index in (0,) if activation == "tanh" else (0, 2, 3):  # tanh's gradient: see above
        # In float64 the truth knows the mean no better, which is up to 1000 times the spread.
        limit = 8 * max(spacing(truth[index], ours[index].dtype), spacing(truth[0], dtype))
        assert error(ours[index], truth[index]) <= limit * (20_000 if dtype == torch.float64 else 1)


def test_frozen_statistics_near_the_limit():
    input = torch.tensor([[3e38], [-3e38], [1.0]])
    mean, var = torch.tensor([-3e38]), torch.tensor([1e38])
    expected = (input.double() - mean.double()) / var.double().sqrt()
    torch.testing.assert_close(mx.batch_norm(input, mean, var).double(), expected)


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("shape", [(32, 20), (4, 20, 9), (4, 20, 200), (2000, 20)], ids=str)
@activations
def test_a_channel_that_is_not_finite_spoils_itself_alone(shape, activation, value):
    case = Case(shape, torch.float32)
    case.input[3, 5] = value
    if activation == "relu":
        case.leave_out_kinks(True)
    ours = case.run(mx.batch_norm, True, activation=activation)
    theirs = case.run(torch_batch_norm, True, activation=activation)
    for mine, other in zip(ours, theirs, strict=True):
        rest = [c for c in range(20) if c != 5]
        dim = 0 if mine.dim() == 1 else 1
        index = torch.tensor(rest)
        torch.testing.assert_close(
            mine.index_select(dim, index), other.index_select(dim, index), rtol=1e-4, atol=1e-4
        )
    assert ours[0][:, 5].isnan().all()
    assert ours[1][:, 5].isnan().any()


@training_or_not
@pytest.mark.parametrize("shape", [(32, 20), (4, 20, 200)], ids=str)
def test_gradients_too_large_for_float32_in_their_products(shape, training):
    case = Case(shape, torch.float32)
    case.input[:, 3] *= 1e14
    case.running_mean[3], case.running_var[3] = 0, 1e28
    case.grad_output[:, 3] *= 1e28
    case.grad_output[0, 5].view(-1)[0] = torch.inf  # makes both sums infinite, not NaN
    ours = case.run(mx.batch_norm, training)
    theirs = case.double().run(F.batch_norm, training)
    for mine, other in zip(ours[2:4], theirs[2:4], strict=True):
        torch.testing.assert_close(mine.double(), other, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("affine", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("shape", [(32, 20), (4, 20, 9), (2, 20, 9, 10)], ids=str)
@training_or_not
def test_weight_and_bias_are_optional(training, affine, shape):
    case = Case(shape, torch.float32)
    results = []
    for function in (mx.batch_norm, F.batch_norm):
        leaves = [t.detach().requires_grad_() for t in (case.input, case.weight, case.bias)]
        parameters = [p if g else None for p, g in zip(leaves[1:], affine, strict=True)]
        running = (case.running_mean.clone(), case.running_var.clone())
        output = function(leaves[0], *running, *parameters, training)
        used = [leaves[0], *[p for p in parameters if p is not None]]
        results.append((output, *torch.autograd.grad(output, used, case.grad_output)))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


NEEDED = ([0], [1], [2], [1, 2], [0, 2])


@pytest.mark.parametrize("needed", NEEDED, ids=str)
@pytest.mark.parametrize("shape", [(32, 20), (4, 20, 40)], ids=str)
@training_or_not
@activations
def test_gradients_of_what_needs_them(needed, shape, training, activation):
    case = Case(shape, torch.float32)
    if activation == "relu":
        case.leave_out_kinks(training)
    results = []
    for function in (mx.batch_norm, torch_batch_norm):
        tensors = [t.detach() for t in (case.input, case.weight, case.bias)]
        leaves = [tensors[i].requires_grad_() for i in needed]
        running = (case.running_mean.clone(), case.running_var.clone())
        output = function(tensors[0], *running, *tensors[1:], training, activation=activation)
        results.append(torch.autograd.grad(output, leaves, case.grad_output))
    torch.testing.assert_close(*results, rtol=1e-5, atol=1e-5)


EMPTY = ((0, 3), (0, 3, 4), (2, 3, 0), (0, 3, 2, 2))


@pytest.mark.parametrize("shape", EMPTY, ids=str)
@training_or_not
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_nothing_to_normalise(shape, training, dtype):
    case = Case(shape, dtype)
    ours, theirs = (case.run(f, training) for f in (mx.batch_norm, F.batch_norm))
    torch.testing.assert_close(ours, theirs)


@training_or_not
def test_no_channels(training):
    # Torch fails here where a gradient is needed.
    none = torch.ones(0)
    case = Case((2, 0, 4), torch.float32)
    output, gradient, *_ = case.run(mx.batch_norm, training)
    assert output.shape == gradient.shape == F.batch_norm(case.input, none, none).shape


@pytest.mark.parametrize("momentum", [0.0, 0.1, 1.0, 2, -0.5])
def test_momentum(momentum):
    case = Case((8, 5, 3), torch.float32)
    ours, theirs = (case.run(f, True, momentum=momentum)[4:] for f in (mx.batch_norm, F.batch_norm))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("eps", [0.0, 1e-12, 0.5, 10])
@training_or_not
def test_eps(eps, training):
    if training and eps == 0:
        pytest.skip("refused, see test_bad_input")
    case = Case((8, 5, 3), torch.float32)
    ours, theirs = (case.run(f, training, eps=eps) for f in (mx.batch_norm, F.batch_norm))
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("running", ["every other", "the same"])
def test_memory_of_the_running_statistics(running):
    results = []
    for function in (mx.batch_norm, F.batch_norm):
        case = Case((8, 5), torch.float32)
        mean = torch.zeros(10)[::2] if running == "every other" else torch.ones(5)
        var = mean if running == "the same" else torch.ones(10)[1::2]
        output = function(case.input, mean, var, training=True)
        results.append((output, mean, var, mean._version))
    torch.testing.assert_close(results[0][:3], results[1][:3])
    assert results[0][3] == results[1][3]  # torch's operator does not count this as a change


def test_weight_of_another_shape_as_torch():
    case = Case((8, 5), torch.float32)
    ours, theirs = (
        f(case.input, None, None, case.weight.view(5, 1), training=True)
        for f in (mx.batch_norm, F.batch_norm)
    )
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("parameter_dtype", [torch.float32, torch.bfloat16])
def test_autocast_as_torch(dtype, parameter_dtype):
    if dtype == torch.float32 and parameter_dtype == torch.bfloat16:
        pytest.skip("refused with and without autocast")
    case = Case((8, 5, 3), dtype, parameter_dtype=parameter_dtype)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ours, theirs = (case.run(f, True) for f in (mx.batch_norm, F.batch_norm))
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, other, rtol=2e-2, atol=2e-2)


INPUT = torch.randn(4, 3, generator=seeded())
ONES = torch.ones(3)
BAD = {
    "one value per channel": {"input": INPUT[:1]},
    "one pixel": {"input": INPUT[:1].view(1, 3, 1, 1)},
    "no dimensions": {"input": torch.tensor(1.0)},
    "one dimension": {"input": INPUT[0], "running_mean": ONES, "running_var": ONES},
    "input dtype": {"input": INPUT.long()},
    "complex": {"input": INPUT.to(torch.complex64)},
    "input type": {"input": 1.0},
    "sparse": {"input": INPUT.to_sparse()},
    "weight length": {"weight": torch.ones(4)},
    "bias length": {"bias": torch.ones(4)},
    "bias dtype": {"bias": ONES.double()},
    "weight dtype of narrow input": {"input": INPUT.half(), "weight": ONES.bfloat16()},
    "weight and bias": {"input": INPUT.half(), "weight": ONES, "bias": ONES.half()},
    "weight type": {"weight": 2.0},
    "running_mean length": {"running_mean": torch.ones(2), "running_var": ONES},
    "running_mean dtype": {"running_mean": ONES.double(), "running_var": ONES.double()},
    "running dimensions": {"running_mean": ONES.view(3, 1), "running_var": ONES.view(3, 1)},
    "running_mean alone": {"running_mean": ONES},
    "running_var alone": {"running_var": ONES},
    "no running statistics": {"training": False},
    "no running_var": {"training": False, "running_mean": ONES},
    "running_mean requires grad": {
        "running_mean": torch.ones(3, requires_grad=True),
        "running_var": ONES,
    },
    "eps 0 in training": {"eps": 0.0},
    "eps in training": {"eps": -1.0},
    "eps in evaluation": {
        "eps": -1.0,
        "training": False,
        "running_mean": ONES,
        "running_var": ONES,
    },
    "eps type": {"eps": None},
    "momentum type": {"momentum": None},
    "training type": {"training": 1},
}


@pytest.mark.parametrize("arguments", BAD.values(), ids=BAD)
def test_bad_input_raises_as_torch(arguments):
    good = {"input": INPUT, "running_mean": None, "running_var": None, "training": True}
    with pytest.raises(Exception) as expected:  # noqa: PT011
        F.batch_norm(**{**good, **arguments})
    with pytest.raises(expected.type) as caught:
        mx.batch_norm(**{**good, **arguments})
    assert str(caught.value) == str(expected.value)


OUR_BAD = {
    "correction": ({"correction": 2}, "correction must be 0 or 1, got 2"),
    "activation": ({"activation": "gelu"}, "activation must be None, 'tanh' or 'relu', got 'gelu'"),
}


@pytest.mark.parametrize(("arguments", "message"), OUR_BAD.values(), ids=OUR_BAD)
def test_bad_keywords(arguments, message):
    with pytest.raises(ValueError, match=message):
        mx.batch_norm(INPUT, None, None, training=True, **arguments)
