import pytest
import torch

from makemore_ext.check import Comparison, compare

ROUNDED = "rounding: 3e+01 eps of the largest, 2"
FURTHEST = "furthest at [0]: 1, should be 1.5"
DOUBLED = "is 2 times what it should be"
FURTHEST_OF_ZEROS = "furthest at [0]: 1e-08, should be 0"


@pytest.mark.parametrize(
    ("actual", "expected", "comparison"),
    [
        ([1.0, 2.0], [1.0, 2.0], Comparison("t", True, True, 0.0)),
        ([1.0, 2.0], [1.0, 2.0 + 2**-17], Comparison("t", False, True, 2**-17, ROUNDED)),
        ([1.0, 2.0], [1.5, 2.25], Comparison("t", False, False, 0.5, FURTHEST)),
        ([2.0, -4.0], [1.0, -2.0], Comparison("t", False, False, 2.0, DOUBLED)),
        ([1e-8, 0.0], [0.0, 1e-10], Comparison("t", False, False, 1e-8, FURTHEST_OF_ZEROS)),
    ],
)
def test_of(actual, expected, comparison):
    found = compare("t", torch.tensor(actual), torch.tensor(expected))
    assert found._replace(maxdiff=0) == comparison._replace(maxdiff=0)
    assert found.maxdiff == pytest.approx(comparison.maxdiff)


def test_sums_of_terms_that_cancel():
    noise, zero = torch.tensor([1e-8, 0.0]), torch.tensor([0.0, 2e-8])
    row = compare("t", noise, zero, terms=1.0)
    assert row.approximate
    assert row.remark == "rounding alone: the true value is 0"
    assert not compare("t", noise, zero, terms=1e-3).approximate


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
    assert compare("t", expected + torch.tensor([0.0, 3e-6]), expected).approximate
    assert not compare("t", expected + torch.tensor([0.0, 5e-6]), expected).approximate


@pytest.mark.parametrize("size", [1.0, 1e-8, 1e-20])
def test_a_mistake_is_one_however_small_the_gradient(size):
    expected = size * torch.tensor([1.0, -2.0, 3.0])
    row = compare("t", expected * 255 / 256, expected)
    assert not row.approximate
    assert row.remark == "is 0.9961 times what it should be"
    assert not compare("t", 0 * expected, expected).approximate
