"""A reader's own gradients: right ones in the notebook's shapes, and what is said of mistakes."""

import pytest
import torch

from makemore_ext import check, reference
from makemore_ext.check.gradients import NAMES
from makemore_ext.reference import Parameters

PARAMETERS, X, Y = check.example(batch_size=16)
STEPS = reference.forward(PARAMETERS, X, Y)
GRADIENTS = reference.backward(PARAMETERS, X, Y, STEPS)
N = len(X)


def row(**gradients):
    (row,) = check.gradients(gradients, X, Y, PARAMETERS, verbose=False)
    return row


def test_the_names_are_those_of_exercise_1():
    assert list(NAMES) == [row.name for row in check.exercise_1(PARAMETERS, X, Y)]


@pytest.mark.parametrize("prefix", ["", "d"])
def test_the_gradients_by_hand_in_the_order_of_the_backward_pass(prefix):
    shuffled = {prefix + name: GRADIENTS[name] for name in sorted(GRADIENTS)}
    rows = check.gradients(shuffled, X, Y, PARAMETERS, verbose=False)
    assert [(row.name, row.approximate) for row in rows] == [
        (prefix + name, True) for name in NAMES
    ]


@pytest.mark.parametrize("name", ["bnmeani", "bnvar", "counts_sum", "logit_maxes", "bngain"])
def test_a_dimension_of_1_may_be_there_or_not(name):
    assert row(**{name: GRADIENTS[name].squeeze()}).approximate
    assert row(**{name: GRADIENTS[name].squeeze()[None]}).approximate


def test_a_vector_of_another_length():
    assert row(db2=torch.zeros(5)).remark == "is [5], must be [27]"


@pytest.mark.parametrize("batch_size", [32, 256, 2048])
def test_the_mistake_of_one_row_in_a_large_batch(batch_size):
    """The notebook's n for n - 1, whatever the gradients' size."""
    parameters, x, y = check.example(batch_size=batch_size)
    found = reference.backward(parameters, x, y, reference.forward(parameters, x, y))
    wrong = found["bndiff2"] * (batch_size - 1) / batch_size
    (row,) = check.gradients({"bndiff2": wrong}, x, y, parameters, verbose=False)
    assert not row.approximate
    assert row.remark.endswith(": (n - 1)/n")


def test_the_notebooks_shapes():
    vectors = {name: GRADIENTS[name].unsqueeze(0) for name in ("bngain", "bnbias")}
    parameters = PARAMETERS._replace(bngain=PARAMETERS.bngain[None], bnbias=PARAMETERS.bnbias[None])
    rows = check.gradients({**GRADIENTS, **vectors}, X, Y, parameters, verbose=False)
    assert all(row.approximate for row in rows)


@pytest.mark.parametrize(
    "given",
    [
        PARAMETERS._asdict(),
        list(PARAMETERS),
        [p.detach().clone().requires_grad_() for p in PARAMETERS],
    ],
)
def test_parameters_as_mapping_or_in_order(given):
    (row,) = check.gradients({"C": GRADIENTS["C"]}, X, Y, given, verbose=False)
    assert row.approximate
    values = given.values() if isinstance(given, dict) else given
    assert [value.grad for value in values] == [None] * len(Parameters._fields)


@pytest.mark.parametrize(
    ("name", "mistake", "remark"),
    [
        ("h", lambda g: -g, "is -1 times what it should be"),
        ("bndiff2", lambda g: g * (N - 1) / N, "is 0.9375 times what it should be: (n - 1)/n"),
        ("logits", lambda g: g * N, "is 16 times what it should be: n"),
        ("W2", lambda g: g.T, "is [27, 64], must be [64, 27]: is transposed"),
        (
            "b2",
            lambda g: GRADIENTS["logits"],
            "is [16, 27], must be [27]: the sum over dimension 0 is missing",
        ),
        (
            "counts_sum",
            lambda g: GRADIENTS["counts"],
            "is [16, 27], must be [16, 1]",
        ),
    ],
)
def test_a_mistake_is_named(name, mistake, remark):
    found = row(**{name: mistake(GRADIENTS[name])})
    assert not found.approximate
    assert found.remark == remark


def test_the_element_that_is_furthest():
    wrong = GRADIENTS["logits"].clone()
    wrong[3, 5] += 1
    assert row(logits=wrong).remark.startswith("furthest at [3, 5]: ")


def test_nan_is_a_mistake():
    assert not row(logits=GRADIENTS["logits"] * torch.nan).approximate


def test_the_table(capsys):
    check.gradients({"dh": -GRADIENTS["h"], "dlogits": GRADIENTS["logits"]}, X, Y, PARAMETERS)
    head, logits, h, last = capsys.readouterr().out.splitlines()
    assert head.split() == ["name", "exact", "approximate", "maxdiff", "remark"]
    assert logits.split()[0] == "dlogits"
    assert h.endswith("is -1 times what it should be")
    assert last == "1 of 2 agree with autograd; off: dh"


@pytest.mark.parametrize(
    ("gradients", "error", "message"),
    [
        (
            {"dlogit": Y},
            ValueError,
            r"gradients must be named as logprobs, .* or not, got 'dlogit'",
        ),
        ({"dh": 1.0}, TypeError, "dh must be a Tensor, got float"),
        (
            {"dh": GRADIENTS["h"].double()},
            TypeError,
            r"dh must be torch.float32 as the parameters, got torch.float64",
        ),
    ],
)
def test_refuses(gradients, error, message):
    with pytest.raises(error, match=f"^{message}$"):
        check.gradients(gradients, X, Y, PARAMETERS)
