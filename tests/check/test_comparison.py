import pytest
import torch

from makemore_ext.check import Comparison, compare

ROUNDED = "rounding: 3e+01 eps of the largest, 2"
FURTHEST = "furthest at [0]: 1, should be 1.5"
DOUBLED = "is 2 times what it should be"
NOTHING = "rounding alone: the true value is 0"


@pytest.mark.parametrize(
    ("actual", "expected", "comparison"),
    [
        ([1.0, 2.0], [1.0, 2.0], Comparison("t", True, True, 0.0)),
        ([1.0, 2.0], [1.0, 2.0 + 2**-17], Comparison("t", False, True, 2**-17, ROUNDED)),
        ([1.0, 2.0], [1.5, 2.25], Comparison("t", False, False, 0.5, FURTHEST)),
        ([2.0, -4.0], [1.0, -2.0], Comparison("t", False, False, 2.0, DOUBLED)),
        ([2.0**-30, 0.0], [0.0, 2.0**-31], Comparison("t", False, True, 2.0**-30, NOTHING)),
    ],
)
def test_of(actual, expected, comparison):
    assert compare("t", torch.tensor(actual), torch.tensor(expected)) == comparison


@pytest.mark.parametrize(("atol", "approximate"), [(0.1, True), (1e-8, False)])
def test_atol(atol, approximate):
    row = compare("t", torch.tensor(0.0), torch.tensor(0.05), atol=atol)
    assert row.approximate is approximate


def test_nan_is_never_approximate():
    assert not compare("t", torch.tensor(torch.nan), torch.tensor(torch.nan)).approximate


@pytest.mark.parametrize(
    ("actual", "got"),
    [
        (torch.zeros(1, 3), r"torch.float32 \[1, 3\]"),
        (torch.zeros(3, dtype=torch.float64), r"torch.float64 \[3\]"),
    ],
)
def test_refuses_what_would_broadcast_or_convert(actual, got):
    with pytest.raises(ValueError, match=rf"^actual must be torch.float32 \[3\] for t, got {got}$"):
        compare("t", actual, torch.zeros(3))


def test_the_rounding_of_a_sum_is_approximate():
    # Of terms around 1, of which one element cancels.
    expected = torch.tensor([1.0, 1e-6])
    assert compare("t", expected + torch.tensor([0.0, 4e-7]), expected).approximate
    assert not compare("t", expected + torch.tensor([0.0, 2e-6]), expected).approximate
