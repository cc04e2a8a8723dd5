"""The formulas beyond the operators, against autograd of the loss in torch operations."""

import pytest
import torch
from cross_entropy_cases import float64_target, logits
from support import assert_few_roundings, seeded
from torch import Tensor
from torch.func import jvp, vjp

from makemore_ext.ops import autograd
from makemore_ext.ops.cross_entropy import formulas
from makemore_ext.ops.cross_entropy.options import MEAN, NONE, REDUCTIONS, Options, class_dim

# Forward mode loads torch's own decompositions, which warn.
pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

OPTIONS = {
    **{name: Options(number, -100, 0.0, 0.0) for name, number in REDUCTIONS.items()},
    "ignore": Options(MEAN, 0, 0.0, 0.0),
    "smoothing": Options(MEAN, -100, 0.3, 0.0),
    "z-loss": Options(MEAN, -100, 0.0, 0.2),
    "all": Options(NONE, 0, 0.3, 0.2),
}
every_case = [
    pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS),
    pytest.mark.parametrize("kind", ["indices", "probabilities"]),
    pytest.mark.parametrize("weighted", [False, True]),
    pytest.mark.parametrize("shape", [(5, 4), (4,), (3, 4, 2)], ids=str),
]


def table(test):
    for mark in every_case:
        test = mark(test)
    return test


def draw(*shape: int, seed: int) -> Tensor:
    return torch.randn(shape, dtype=torch.float64, generator=seeded(seed))


class Case:
    """Arguments of the loss, upstream gradients, and a tangent of each that has one."""

    def __init__(self, kind, weighted, shape, options, dtype=torch.float64, scale=1.0):
        dim = class_dim(torch.empty(shape, device="meta"))
        rows = [size for d, size in enumerate(shape) if d != dim]
        self.dim, self.options = dim, options
        self.input = (logits(shape, torch.float64) * scale).to(dtype)
        self.target = float64_target(kind, shape)
        self.has_probabilities = kind == "probabilities"
        if self.has_probabilities:
            self.target = self.target.to(dtype)
        self.weight = draw(shape[dim], seed=2).abs().to(dtype) if weighted else None
        self.grad_loss = draw(*(rows if options[0] == NONE else []), seed=3).to(dtype)
        self.grad_lse = draw(*rows, seed=4).to(dtype)

    @property
    def tensors(self):
        return self.input, self.target, self.weight

    def variables(self):
        """Those of the tensors that have derivatives, by their place, in float64."""
        places = [0, 1, 2] if self.has_probabilities else [0]
        return {i: self.tensors[i].double() for i in places if self.tensors[i] is not None}

    def with_variables(self, *values: Tensor):
        tensors = [
            t if t is None or not t.is_floating_point() else t.double() for t in self.tensors
        ]
        for place, value in zip(self.variables(), values, strict=True):
            tensors[place] = value
        return tensors

    def loss_and_lse(self, *values: Tensor):
        """In torch operations, as a function of the variables."""
        reduction, ignore_index, smoothing, lse_square_scale = self.options
        input, target, weight = self.with_variables(*values)
        classes = input.shape[self.dim]
        x = input.movedim(self.dim, -1)
        weight = torch.ones(classes, dtype=x.dtype) if weight is None else weight
        if self.has_probabilities:
            q, valid = target.movedim(self.dim, -1), torch.ones(x.shape[:-1], dtype=torch.bool)
            divisor = valid.sum()
        else:
            q, valid = torch.nn.functional.one_hot(target, classes), target != ignore_index
            divisor = weight[target][valid].sum()
        lse = x.logsumexp(-1)
        share = weight * ((1 - smoothing) * q + smoothing / classes)
        rows = (share * (lse.unsqueeze(-1) - x)).sum(-1) + lse_square_scale * lse.square()
        rows = torch.where(valid, rows, 0)
        if reduction != NONE:
            rows = rows.sum() / (divisor if reduction == MEAN else 1)
        return rows, lse

    def gradients(self, grad_loss: Tensor, grad_lse: Tensor, *values: Tensor):
        """Those of the variables."""
        return vjp(self.loss_and_lse, *values)[1]((grad_loss, grad_lse))

    def gradient(self, *arguments: Tensor):
        return self.gradients(*arguments)[0]

    def upstream(self):
        return self.grad_loss.double(), self.grad_lse.double()

    def tangents(self):
        return {i: draw(*value.shape, seed=5 + i) for i, value in self.variables().items()}


def by_place(values: dict[int, Tensor], dtype: torch.dtype = torch.float64):
    return [values[i].to(dtype) if i in values else None for i in range(3)]


@table
def test_gradients_of_target_and_weight(shape, weighted, kind, options):
    case = Case(kind, weighted, shape, options)
    actual = formulas.gradients_of_target(case.grad_loss, *case.tensors, None, options)
    no_lse = torch.zeros_like(case.grad_lse)
    expected = case.gradients(case.grad_loss, no_lse, *case.variables().values())[1:]
    torch.testing.assert_close([a for a in actual if a is not None], list(expected))


@table
def test_tangents(shape, weighted, kind, options):
    case = Case(kind, weighted, shape, options)
    tangents = case.tangents()
    actual = formulas.tangents(*case.tensors, *by_place(tangents), options)
    expected = jvp(case.loss_and_lse, tuple(case.variables().values()), tuple(tangents.values()))[1]
    torch.testing.assert_close(actual, expected)


@table
def test_second_gradients(shape, weighted, kind, options):
    case = Case(kind, weighted, shape, options)
    grad = draw(*shape, seed=9)
    arguments = (*case.upstream(), *case.variables().values())
    actual = formulas.second_gradients(grad, *case.upstream(), *case.tensors, options)
    expected = vjp(case.gradient, *arguments)[1](grad)
    torch.testing.assert_close([a for a in actual if a is not None], list(expected))


@table
def test_second_gradients_of_some_rows_at_a_time(shape, weighted, kind, options, monkeypatch):
    case = Case(kind, weighted, shape, options)
    grad, (grad_loss, grad_lse) = draw(*shape, seed=9), case.upstream()
    for upstream in ((grad_loss, grad_lse), (grad_loss, None), (None, grad_lse)):
        arguments = grad, *upstream, *case.tensors, options
        expected = formulas.second_gradients(*arguments)
        with torch.no_grad(), monkeypatch.context() as patch:
            patch.setattr(autograd, "PIECE_ELEMENTS", 4)
            assert len(shape) == 1 or len(autograd.pieces(case.input, 0)) > 1
            torch.testing.assert_close(formulas.second_gradients(*arguments), expected)


@table
def test_second_tangent(shape, weighted, kind, options):
    case = Case(kind, weighted, shape, options)
    upstream = (draw(*case.grad_loss.shape, seed=10), draw(*case.grad_lse.shape, seed=11))
    tangents = case.tangents()
    actual = formulas.second_tangent(
        *case.upstream(), *case.tensors, *upstream, *by_place(tangents), options
    )
    arguments = (*case.upstream(), *case.variables().values())
    expected = jvp(case.gradient, arguments, (*upstream, *tangents.values()))[1]
    torch.testing.assert_close(actual, expected)


@pytest.mark.parametrize("given", [0, 1])
def test_one_upstream_gradient_alone(given):
    case = Case("probabilities", True, (5, 4), OPTIONS["all"])
    grad, tangents = draw(5, 4, seed=9), by_place(case.tangents())
    upstream = case.upstream()
    alone = [one if i == given else None for i, one in enumerate(upstream)]
    zeros = [one if i == given else 0 * one for i, one in enumerate(upstream)]

    def compute(grads):
        second = formulas.second_gradients(grad, *grads, *case.tensors, case.options)
        tangent = formulas.second_tangent(
            *grads, *case.tensors, None, None, *tangents, case.options
        )
        return second[given], *second[2:], tangent

    torch.testing.assert_close(compute(alone), compute(zeros))


def rounded_once(actual: Tensor, truth: Tensor) -> None:
    """Holds a result to its last rounding, and float64's own to a share of the largest."""
    assert_few_roundings(actual, truth, truth.abs().max().expand_as(truth), 1e-3)


@pytest.mark.parametrize("kind", ["indices", "probabilities"])
def test_confident_rows_keep_their_digits(kind):
    # 1 - p is about 1e-5, of which float32 would keep two digits.
    case = Case(kind, True, (40, 4), Options(NONE, -100, 0.0, 0.0), torch.float32)
    case.input = torch.zeros(40, 4).index_fill(1, torch.tensor(2), 12.0) + case.input / 16
    if kind == "indices":
        case.target = torch.full((40,), 2)
    variables, tangents = case.variables(), case.tangents()
    tangents = {i: tangent.float().double() for i, tangent in tangents.items()}
    arguments = (*case.upstream(), *variables.values())
    grad = draw(40, 4, seed=9).float()
    actual = formulas.second_gradients(
        grad, case.grad_loss, case.grad_lse, *case.tensors, case.options
    )
    expected = vjp(case.gradient, *arguments)[1](grad.double())
    for one, truth in zip([a for a in actual if a is not None], expected, strict=True):
        rounded_once(one, truth)
    none = (torch.zeros_like(case.grad_loss), torch.zeros_like(case.grad_lse))
    tangent = formulas.second_tangent(
        case.grad_loss,
        case.grad_lse,
        *case.tensors,
        None,
        None,
        *by_place(tangents, torch.float32),
        case.options,
    )
    doubles = tuple(t.double() for t in none)
    rounded_once(tangent, jvp(case.gradient, arguments, (*doubles, *tangents.values()))[1])


def test_a_class_that_is_ruled_out_has_no_part():
    input = torch.tensor([[1.0, -torch.inf, 2.0]])
    target, weight = torch.tensor([[0.5, 0.0, 0.5]]), torch.ones(3)
    options = Options(MEAN, -100, 0.0, 0.0)
    one = torch.ones(())
    _, grad_weight = formulas.gradients_of_target(one, input, target, weight, None, options)
    _, kept = formulas.gradients_of_target(
        one, input[:, ::2], target[:, ::2], weight[::2], None, options
    )
    torch.testing.assert_close(grad_weight, torch.stack([kept[0], torch.zeros(()), kept[1]]))


def test_a_tangent_of_weight_beside_indices_is_refused():
    case = Case("indices", True, (5, 4), OPTIONS["mean"])
    with pytest.raises(RuntimeError, match="weight must have no tangent"):
        formulas.tangents(*case.tensors, None, None, case.weight, case.options)
