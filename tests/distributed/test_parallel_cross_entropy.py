"""Cross entropy of sharded logits is that of the logits of all ranks."""

import pytest
import torch
from cross_entropy_cases import DTYPES, OPTIONS, indices, logits, with_weight
from loss_calls import (
    call,
    in_group_of,
    loss_and_gradient,
    of_probabilities,
    second_derivative,
    truth,
    under_compile,
    without_the_first,
)
from ranks import ranks_fixture

import makemore_ext as mx

SIZES = {"even": [7, 7], "uneven": [1, 12], "three": [3, 1, 9]}
ROWS = ((9,), (), (3, 4))
MORE = {
    **OPTIONS,
    "z-loss": {"lse_square_scale": 0.01, "reduction": "none"},
    "lse": {"return_lse": True, "ignore_index": 2, "reduction": "none"},
    "in place": {"inplace_backward": True, "weight": True, "label_smoothing": 0.1},
}


ranks = ranks_fixture(SIZES)


def problem(rows, sizes, dtype, options):
    shape = (*rows[:1], sum(sizes), *rows[1:])
    return logits(shape, dtype), indices(shape), with_weight(options, shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", ROWS, ids=str)
@pytest.mark.parametrize("options", MORE.values(), ids=MORE)
def test_of_all_logits(ranks, options, rows, dtype):
    input, target, options = problem(rows, ranks.sizes, dtype, options)
    answers = ranks.results(loss_and_gradient, input, target, ranks.sizes, options)
    loss, grad, *lse = truth(input, target, options)
    gradient = torch.cat([answer["grad"] for answer in answers], 1 if rows else 0)
    tight = {"rtol": 1e-12, "atol": 1e-13} if dtype == torch.float64 else {}
    bounds = {**(tight or {"rtol": torch.finfo(dtype).eps, "atol": 1e-7}), "equal_nan": True}
    torch.testing.assert_close(gradient.double(), grad, **bounds)
    for answer in answers:
        assert (answer["loss"].dtype, answer["grad"].dtype) == (dtype, dtype)
        torch.testing.assert_close(answer["loss"].double(), loss, **bounds)
        exactly = {"rtol": 0, "atol": 0, "equal_nan": True}
        torch.testing.assert_close(answer["loss"], answers[0]["loss"], **exactly)
        for ours, theirs in zip(answer["lse"], lse, strict=True):
            torch.testing.assert_close(ours.double(), theirs, rtol=tight.get("rtol", 1e-6), atol=0)


@pytest.mark.parametrize("options", MORE.values(), ids=MORE)
def test_two_messages_forward_and_none_backward(ranks, options):
    input, target, options = problem((5,), ranks.sizes, torch.float32, options)
    for answer in ranks.results(loss_and_gradient, input, target, ranks.sizes, options):
        assert (answer["forward"], answer["backward"]) == ({"all_reduce": 2}, {})


SPECIAL = {
    "a confident row": lambda x: x.index_fill_(1, torch.tensor([2]), 60.0),
    "far from zero": lambda x: x.add_(1e4),
    "classes that are ruled out": lambda x: x[:, 3:].fill_(-torch.inf),
    "nothing left": lambda x: x.fill_(-torch.inf),
    "infinite": lambda x: x[:, 1:2].fill_(torch.inf),
    "not a number": lambda x: x[:, 1:2].fill_(torch.nan),
}


@pytest.mark.parametrize("change", SPECIAL.values(), ids=SPECIAL)
def test_special_values(ranks, change):
    input, _, options = problem((6,), ranks.sizes, torch.float32, {"reduction": "none"})
    target = torch.tensor([0, 1, 2, 2, 2, -100])
    change(input)
    answers = ranks.results(loss_and_gradient, input, target, ranks.sizes, options)
    loss, grad = truth(input, target, options)
    gradient = torch.cat([answer["grad"] for answer in answers], 1)
    # 60 below the largest, a logit's distance from it has lost 6 of its 24 bits.
    bounds = {"rtol": 1e-5, "atol": 1e-44, "equal_nan": True}
    torch.testing.assert_close(answers[0]["loss"].double(), loss, **bounds)
    torch.testing.assert_close(gradient.double(), grad, **bounds)


def test_more_rows_than_the_first_message_has(ranks):
    input, target, _ = problem((5000,), ranks.sizes, torch.float32, {})
    answers = ranks.results(loss_and_gradient, input, target, ranks.sizes, {})
    loss, grad = truth(input, target, {})
    torch.testing.assert_close(answers[0]["loss"].double(), loss, rtol=1e-7, atol=0)
    gradient = torch.cat([answer["grad"] for answer in answers], 1)
    torch.testing.assert_close(gradient.double(), grad, rtol=1e-6, atol=1e-10)
    assert answers[0]["forward"] == {"all_reduce": 3}


def test_every_row_ignored(ranks):
    input, target, _ = problem((5,), ranks.sizes, torch.float32, {})
    answers = ranks.results(
        loss_and_gradient, input, torch.full_like(target, -100), ranks.sizes, {}
    )
    assert all(answer["loss"].isnan() for answer in answers)
    assert not any(answer["grad"].any() for answer in answers)


WRONG = {
    "a target outside": ([{}] * 3, [1, 1, 1], IndexError, "is out of bounds"),
    "other options": (
        [{"label_smoothing": 0.1}, {}, {}],
        [2, 2, 2],
        ValueError,
        "must be the same on every rank, got label_smoothing from 0 to 0.1",
    ),
    "a weight on one rank": (
        [{}, {"weight": torch.ones(2)}, {}],
        [2, 2, 2],
        ValueError,
        "whether there is a weight",
    ),
    "other targets": (
        [{"shift": 1}, {}, {}],
        [2, 2, 2],
        ValueError,
        "on every rank, got targets from",
    ),
    "a weight for all": (
        [{"weight": torch.ones(6)}] * 3,
        [2, 2, 2],
        ValueError,
        "weight must have the factors of this rank's classes, 2 of them, got 6",
    ),
    "other rows": ([{"rows": 40}, {}, {}], [2, 2, 2], ValueError, "the number of rows"),
    "no class": ([{}] * 3, [0, 4, 4], ValueError, "at least 1 class on every rank, got [0, 4"),
}


@pytest.mark.parametrize(("options", "sizes", "error", "message"), WRONG.values(), ids=WRONG)
def test_wrong_use_is_told_on_every_rank(ranks, options, sizes, error, message):
    for answer in ranks.run(call, options, sizes):
        assert isinstance(answer, error), answer
        assert message in str(answer)


def test_a_rank_that_does_not_come_ends_in_an_error(ranks):
    answers = ranks.run(without_the_first)
    assert answers[0] is None
    assert all(isinstance(answer, RuntimeError) for answer in answers[1:])


def test_second_derivatives_are_refused(ranks):
    for answer in ranks.run(second_derivative):
        assert isinstance(answer, RuntimeError)
        assert "create_graph must be False" in str(answer)


@pytest.mark.parametrize("ranks", ["even"], indirect=True)
def test_under_torch_compile_the_graph_breaks(ranks):
    for loss, compiled in ranks.results(under_compile):
        torch.testing.assert_close(compiled, loss)


def test_a_group_of_some(ranks):
    inside, *others = ranks.run(in_group_of, [0])
    torch.testing.assert_close(inside, torch.tensor(3.0).log())
    for answer in others:
        assert isinstance(answer, RuntimeError)
        assert str(answer).startswith("group must have this process in it")


def test_without_torch_distributed():
    with pytest.raises(RuntimeError, match="init_process_group has not been called"):
        mx.parallel_cross_entropy(torch.zeros(2, 3), torch.tensor([0, 1]))


def test_probabilities_are_refused(ranks):
    for answer in ranks.run(of_probabilities):
        assert isinstance(answer, NotImplementedError)
        assert "target must hold class indices" in str(answer)
