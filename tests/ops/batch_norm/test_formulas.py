"""The formulas beyond the operators, against autograd of batch norm in torch operations."""

import pytest
import torch
from batch_norm_cases import ACTIVATIONS, Case, over_channels
from support import assert_few_roundings, seeded
from torch import Tensor
from torch.func import jvp, vjp

from makemore_ext._native import operators
from makemore_ext.ops import autograd
from makemore_ext.ops.batch_norm import formulas
from makemore_ext.ops.batch_norm.options import ACTIVATIONS as NUMBERS

# Forward mode loads torch's own decompositions, which warn.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

EPS = 1e-5


class Problem:
    """Batch norm of a `Case` as a function of input, weight and bias, in float64."""

    def __init__(self, case: Case, training, correction, activation, affine):
        self.training, self.correction, self.activation = training, correction, activation
        exact = case.double()
        self.running = exact.running_mean, exact.running_var
        self.affine = affine
        self.weight = case.weight if affine else None
        self.bias = case.bias if affine else None
        self.input, self.grad_output = case.input, case.grad_output
        self.options = (training, float(correction), NUMBERS[activation])
        output, self.statistics = operators.batch_norm_forward.default(
            case.input,
            self.weight,
            self.bias,
            case.running_mean,
            case.running_var,
            training,
            float(correction),
            EPS,
            NUMBERS[activation],
        )
        self.output = None if activation is None else output

    def leaves(self):
        tensors = (self.input, self.weight, self.bias)
        return tuple(tensor.double() for tensor in tensors if tensor is not None)

    def forward(self, input: Tensor, *parameters: Tensor) -> Tensor:
        beside = [dim for dim in range(input.dim()) if dim != 1]
        spread = over_channels(input)
        mean, var = self.running
        if self.training:
            var, mean = torch.var_mean(input, beside, correction=self.correction)
        z = (input - spread(mean)) * (spread(var) + EPS).rsqrt()
        if parameters:
            z = z * spread(parameters[0]) + spread(parameters[1])
        return ACTIVATIONS[self.activation](z)

    def gradients(self, grad_output: Tensor, *leaves: Tensor):
        return vjp(self.forward, *leaves)[1](grad_output)

    def random(self, seed: int, dtype=torch.float64):
        generator = seeded(seed)
        return tuple(
            torch.randn(leaf.shape, dtype=torch.float64, generator=generator).to(dtype)
            for leaf in self.leaves()
        )

    def padded(self, values):
        """As many as with weight and bias."""
        return (*values, *[None] * (3 - len(values)))


CASES = [
    pytest.param(training, correction, id=f"{training} {correction}")
    for training, correction in ((True, 0), (True, 1), (False, 0))
]


def table(test):
    for mark in (
        pytest.mark.parametrize(("training", "correction"), CASES),
        pytest.mark.parametrize("activation", ACTIVATIONS),
        pytest.mark.parametrize("affine", [True, False]),
        pytest.mark.parametrize("shape", [(5, 3), (4, 2, 3), (2, 3, 2, 2)], ids=str),
    ):
        test = mark(test)
    return test


def problem(shape, affine, activation, training, correction) -> Problem:
    return Problem(Case(shape, torch.float64), training, correction, activation, affine)


@table
def test_tangent(shape, affine, activation, training, correction):
    p = problem(shape, affine, activation, training, correction)
    tangents = p.random(1)
    actual = formulas.tangent(
        p.input, p.weight, p.output, p.statistics, *p.padded(tangents), p.options
    )
    torch.testing.assert_close(actual, jvp(p.forward, p.leaves(), tangents)[1])


@table
def test_second_gradients(shape, affine, activation, training, correction):
    p = problem(shape, affine, activation, training, correction)
    grads = p.random(1)
    for_grad_output, for_input, for_weight, for_output = formulas.second_gradients(
        *p.padded(grads), p.grad_output, p.input, p.weight, p.output, p.statistics, p.options
    )
    actual = [for_input] if for_weight is None else [for_input, for_weight, 0 * for_weight]
    if for_output is not None:  # goes on through the forward pass
        through = vjp(p.forward, *p.leaves())[1](for_output)
        actual = [one + other for one, other in zip(actual, through, strict=True)]
    expected = vjp(p.gradients, p.grad_output, *p.leaves())[1](grads)
    torch.testing.assert_close((for_grad_output, *actual), expected)


@table
def test_second_gradients_of_some_channels_at_a_time(
    shape, affine, activation, training, correction, monkeypatch
):
    p = problem(shape, affine, activation, training, correction)
    known = p.grad_output, p.input, p.weight, p.output, p.statistics, p.options
    expected = formulas.second_gradients(*p.padded(p.random(1)), *known)
    monkeypatch.setattr(autograd, "PIECE_ELEMENTS", 4)
    with torch.no_grad():
        assert len(autograd.pieces(p.input, 1)) > 1
        actual = formulas.second_gradients(*p.padded(p.random(1)), *known)
    torch.testing.assert_close(actual, expected)


@table
def test_second_tangents(shape, affine, activation, training, correction):
    p = problem(shape, affine, activation, training, correction)
    tangents = p.random(1)
    dy = torch.randn(shape, dtype=torch.float64, generator=seeded(2))
    output = jvp(p.forward, p.leaves(), tangents)[1] if activation else None
    actual = formulas.second_tangents(
        p.grad_output,
        p.input,
        p.weight,
        p.output,
        p.statistics,
        dy,
        tangents[0],
        tangents[1] if affine else None,
        output,
        p.options,
    )
    expected = jvp(p.gradients, (p.grad_output, *p.leaves()), (dy, *tangents))[1]
    torch.testing.assert_close(actual[: len(expected)], expected)


@pytest.mark.parametrize("given", [0, 1, 2])
def test_one_gradient_alone(given):
    p = problem((4, 2, 3), True, "tanh", True, 1)
    grads = p.random(1)
    alone = [grad if i == given else None for i, grad in enumerate(grads)]
    zeros = [grad if i == given else 0 * grad for i, grad in enumerate(grads)]
    known = (p.grad_output, p.input, p.weight, p.output, p.statistics, p.options)
    torch.testing.assert_close(
        formulas.second_gradients(*alone, *known), formulas.second_gradients(*zeros, *known)
    )


@pytest.mark.parametrize("training", [True, False])
def test_a_mean_far_from_0_costs_no_digits(training):
    # Neighbouring floats are 2^-7 apart there, and their squares 1e10.
    case = Case((64, 3, 5), torch.float32, offset=1e5)
    p = Problem(case, training, 0, None, True)
    grads = p.random(1, torch.float32)
    doubles = tuple(grad.double() for grad in grads)
    dy = p.grad_output.double()

    def check(actual, expected):
        for one, truth in zip(actual, expected, strict=True):
            assert_few_roundings(one, truth, truth.abs().max().expand_as(truth), 1e-3)

    known = (p.input, p.weight, None, p.statistics)
    tangent = formulas.tangent(*known, *grads, p.options)
    check([tangent], [jvp(p.forward, p.leaves(), doubles)[1]])
    second = formulas.second_gradients(*grads, p.grad_output, *known, p.options)
    check(second[:3], vjp(p.gradients, dy, *p.leaves())[1](doubles)[:3])
    tangents = formulas.second_tangents(p.grad_output, *known, None, *grads[:2], None, p.options)
    still = torch.zeros_like(dy), *doubles
    check(tangents, jvp(p.gradients, (dy, *p.leaves()), still)[1])
