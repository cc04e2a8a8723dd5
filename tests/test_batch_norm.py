import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import LAYOUTS, error, spacing, threads
from torch import Tensor
from torch.nn import functional as F

import makemore_ext as mx

DTYPES = (torch.float32, torch.float64)
SHAPES = ((32, 64), (32, 200), (2, 1), (3, 5), (17, 8), (100, 33), (7, 16), (4096, 24))
ACTIVATIONS = {None: lambda x: x, "tanh": torch.tanh, "relu": torch.relu}


class Case:
    """One input with everything that batch norm takes."""

    def __init__(self, shape: tuple[int, int], dtype: torch.dtype, offset: float = 0.0):
        generator = torch.Generator().manual_seed(0)

        def draw(*size: int) -> Tensor:
            return torch.randn(size, dtype=torch.float64, generator=generator)

        channels = shape[1]
        self.input = (draw(*shape) * 2 + offset).to(dtype)
        self.weight = (draw(channels) + 2).to(dtype)
        self.bias = draw(channels).to(dtype)
        self.running_mean = (draw(channels) + offset).to(dtype)
        self.running_var = (draw(channels).square() + 0.5).to(dtype)
        self.grad_output = draw(*shape).to(dtype)

    def double(self) -> "Case":
        other = object.__new__(Case)
        other.__dict__ = {name: tensor.double() for name, tensor in self.__dict__.items()}
        return other

    def run(self, function, training: bool, **options) -> list[Tensor]:
        """Output, gradients of input, weight and bias, and both running statistics."""
        leaves = [t.detach().requires_grad_() for t in (self.input, self.weight, self.bias)]
        running = [self.running_mean.clone(), self.running_var.clone()]
        input, weight, bias = leaves
        output = function(input, *running, weight, bias, training, **options)
        gradients = torch.autograd.grad(output, leaves, self.grad_output)
        return [output.detach(), *gradients, *running]


def step_by_step(
    input,
    running_mean,
    running_var,
    weight,
    bias,
    training,
    *,
    correction=0,
    activation=None,
    momentum=0.1,
    eps=1e-5,
):
    """Batch norm in torch operations, differentiated by autograd."""
    mean, var = running_mean.clone(), running_var.clone()
    if training:
        var, mean = torch.var_mean(input, 0, correction=correction)
        with torch.no_grad():
            running_mean.lerp_(mean, momentum)
            running_var.lerp_(input.var(0, correction=1), momentum)
    return ACTIVATIONS[activation]((input - mean) / (var + eps).sqrt() * weight + bias)


def torch_batch_norm(*arguments, activation=None, **options):
    return ACTIVATIONS[activation](F.batch_norm(*arguments, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", [s for s in SHAPES if s != (2, 1)])
def test_agrees_with_torch(shape, activation, training, dtype):
    case = Case(shape, dtype)
    ours = case.run(mx.batch_norm, training, activation=activation)
    theirs = case.run(torch_batch_norm, training, activation=activation)
    # A gradient of weight sums over the batch what partly cancels: rounding grows with its size.
    tolerance = {"rtol": 1e-4, "atol": 1e-3} if shape[0] == 4096 and dtype == torch.float32 else {}
    torch.testing.assert_close(ours, theirs, **tolerance)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("shape", SHAPES)
def test_agrees_with_the_formula_for_either_correction(shape, activation, correction, dtype):
    options = {"activation": activation, "correction": correction}
    case = Case(shape, dtype)
    ours = case.run(mx.batch_norm, True, **options)
    truth = case.double().run(step_by_step, True, **options)
    for mine, true in zip(ours, truth, strict=True):
        limit = 8 * spacing(true, dtype) * max(1, shape[0] ** 0.5 / 4)
        assert error(mine, true) <= max(limit, 1e-6 if dtype == torch.float32 else 1e-13)


@pytest.mark.parametrize("offset", [0.0, 1e3, 1e4, 1e6])
@pytest.mark.parametrize("training", [True, False])
def test_at_least_as_close_to_the_truth_as_torch(offset, training):
    case = Case((4096, 24), torch.float32, offset)
    truth = case.double().run(step_by_step, training)
    ours = case.run(mx.batch_norm, training)
    theirs = case.run(F.batch_norm, training)
    for mine, other, true in zip(ours, theirs, truth, strict=True):
        assert error(mine, true) <= max(error(other, true), 2 * spacing(true, torch.float32))


def test_a_large_mean_costs_no_digits():
    # Torch is off by 4e-3 here: the mean of 1e4 in float32 is only known to 5e-4.
    case = Case((4096, 24), torch.float32, offset=1e4)
    output = case.run(mx.batch_norm, True)[0]
    truth = case.double().run(step_by_step, True)[0]
    assert error(output, truth) < 2e-6


def test_an_outlying_first_row_costs_no_digits():
    case = Case((64, 8), torch.float32)
    case.input[0] = 1e6
    output = case.run(mx.batch_norm, True)[0]
    truth = case.double().run(step_by_step, True)[0]
    assert error(output, truth) <= 2 * spacing(truth, torch.float32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
def test_layout_of_input_and_gradient_does_not_matter(layout, dtype):
    case = Case((33, 41), dtype)
    expected = case.run(mx.batch_norm, True, activation="tanh")
    case.input, case.grad_output = layout(case.input), layout(case.grad_output)
    actual = case.run(mx.batch_norm, True, activation="tanh")
    torch.testing.assert_close(actual, expected, rtol=0, atol=0)


@pytest.mark.parametrize("affine", [(True, False), (False, True), (False, False)])
@pytest.mark.parametrize("training", [True, False])
def test_weight_and_bias_are_optional(training, affine):
    case = Case((32, 20), torch.float32)
    parameters = [
        p if given else None for p, given in zip((case.weight, case.bias), affine, strict=True)
    ]
    results = []
    for function in (mx.batch_norm, F.batch_norm):
        input = case.input.detach().requires_grad_()
        running = (case.running_mean.clone(), case.running_var.clone())
        output = function(input, *running, *parameters, training)
        results.append((output, *torch.autograd.grad(output, input, case.grad_output)))
    torch.testing.assert_close(*results)


def test_expanded_gradient():
    case = Case((32, 20), torch.float32)
    case.grad_output = torch.ones(()).expand(32, 20)
    torch.testing.assert_close(
        case.run(mx.batch_norm, True, activation="relu"),
        case.run(torch_batch_norm, True, activation="relu"),
    )


def test_no_running_statistics_in_training():
    case = Case((32, 20), torch.float32)
    ours = mx.batch_norm(case.input, None, None, training=True)
    torch.testing.assert_close(ours, F.batch_norm(case.input, None, None, training=True))


@pytest.mark.parametrize("rows", [0, 1, 4])
def test_small_batches_in_evaluation(rows):
    case = Case((rows, 3), torch.float32)
    torch.testing.assert_close(case.run(mx.batch_norm, False), case.run(F.batch_norm, False))


@pytest.mark.parametrize("value", [torch.inf, torch.nan])
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_a_channel_that_is_not_finite_spoils_itself_alone(activation, value):
    case = Case((32, 20), torch.float32)
    case.input[3, 5] = value
    ours = case.run(mx.batch_norm, True, activation=activation)
    theirs = case.run(torch_batch_norm, True, activation=activation)
    torch.testing.assert_close(ours, theirs, equal_nan=True)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("correction", [0, 1])
@pytest.mark.parametrize("activation", [None, "tanh"])
@pytest.mark.parametrize("check", [torch.autograd.gradcheck, torch.autograd.gradgradcheck])
def test_derivatives(check, activation, correction, training):
    case = Case((5, 3), torch.float64)
    inputs = [t.requires_grad_() for t in (case.input, case.weight, case.bias)]

    def function(input: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        running = (case.running_mean.clone(), case.running_var.clone())
        return mx.batch_norm(
            input, *running, weight, bias, training, correction=correction, activation=activation
        )

    assert check(function, inputs)


@settings(deadline=None, max_examples=60)
@given(
    rows=st.integers(3, 60),
    channels=st.integers(1, 50),
    column_stride=st.integers(1, 3),
    offset=st.integers(0, 5),
    seed=st.integers(0, 2**16),
)
def test_any_shape_and_stride(rows, channels, column_stride, offset, seed):
    generator = torch.Generator().manual_seed(seed)
    row_stride = channels * column_stride + offset
    memory = torch.randn(offset + rows * row_stride, generator=generator)
    case = Case((rows, channels), torch.float32)
    case.input = memory.as_strided((rows, channels), (row_stride, column_stride), offset)
    torch.testing.assert_close(
        case.run(mx.batch_norm, True), case.run(F.batch_norm, True), rtol=1e-4, atol=1e-4
    )


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(32, 200), (3000, 40)])
def test_same_bits_for_every_thread_count_and_run(shape, dtype):
    case = Case(shape, dtype)
    results = []
    for count in (1, 2, 3, 2):
        with threads(count):
            results.append(case.run(mx.batch_norm, True, activation="tanh"))
    for result in results[1:]:
        torch.testing.assert_close(result, results[0], rtol=0, atol=0)


def test_nothing_given_is_changed_but_the_running_statistics():
    case = Case((40, 30), torch.float32)
    before = [t.clone() for t in (case.input, case.weight, case.bias, case.grad_output)]
    case.run(mx.batch_norm, True, activation="relu")
    after = (case.input, case.weight, case.bias, case.grad_output)
    assert all(torch.equal(a, b) for a, b in zip(after, before, strict=True))


INPUT = torch.randn(4, 3, generator=torch.Generator().manual_seed(0))
BAD = {
    "one value per channel": ({"input": INPUT[:1]}, ValueError, "more than 1 value per channel"),
    "empty batch": ({"input": INPUT[:0]}, ValueError, "more than 1 value per channel"),
    "input dtype": ({"input": INPUT.half()}, NotImplementedError, "input must be float32"),
    "input dimensions": ({"input": INPUT[0]}, NotImplementedError, "2 dimensions"),
    "input type": ({"input": 1.0}, TypeError, "input must be a Tensor"),
    "weight length": ({"weight": torch.ones(4)}, ValueError, r"weight must have shape \[3\]"),
    "bias dtype": ({"bias": torch.ones(3).double()}, ValueError, "bias must be torch.float32"),
    "weight type": ({"weight": 2.0}, TypeError, "weight must be a Tensor or None"),
    "running_mean length": (
        {"running_mean": torch.ones(2), "running_var": torch.ones(3)},
        ValueError,
        "running_mean must have shape",
    ),
    "running_mean alone": ({"running_mean": torch.ones(3)}, ValueError, "given together"),
    "no running statistics": ({"training": False}, ValueError, "when training is False"),
    "eps in training": ({"eps": 0.0}, ValueError, "eps must be positive during training"),
    "eps": ({"eps": -1.0}, ValueError, "eps must be positive during training"),
    "correction": ({"correction": 2}, ValueError, "correction must be 0 or 1, got 2"),
    "activation": ({"activation": "gelu"}, ValueError, "activation must be None, 'tanh' or"),
}


@pytest.mark.parametrize(("arguments", "kind", "message"), BAD.values(), ids=BAD)
def test_bad_input(arguments, kind, message):
    good = {"input": INPUT, "running_mean": None, "running_var": None, "training": True}
    with pytest.raises(kind, match=message) as caught:
        mx.batch_norm(**{**good, **arguments})
    assert "\n" not in str(caught.value)


def test_operators_pass_opcheck():
    case = Case((6, 5), torch.float32)
    forward = torch.ops.makemore_ext.batch_norm_forward.default
    arguments = (case.input, case.weight, case.bias, None, None, True, 1.0, 1e-5, 1)
    torch.library.opcheck(forward, arguments)
    output, statistics = forward(*arguments)
    torch.library.opcheck(
        torch.ops.makemore_ext.batch_norm_backward.default,
        (case.grad_output, case.input, case.weight, output, statistics, True, 1.0, 1),
    )
