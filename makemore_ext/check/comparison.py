"""How two tensors that should be equal differ, and what it may come from."""

from typing import NamedTuple

import torch
from torch import Tensor


class Comparison(NamedTuple):
    """How two tensors that should be equal differ.

    Attributes:
        name: What is compared.
        exact: Whether all elements are equal.
        approximate: Whether all elements are close, see `compare`.
        maxdiff: The largest absolute difference.
        remark: Where they are not equal, what they differ by: roundings, a factor, an element.
    """

    name: str
    exact: bool
    approximate: bool
    maxdiff: float
    remark: str = ""


ROUNDINGS = 32
"""As many eps of the largest element may come from the order of a sum."""


def compare(name: str, actual: Tensor, expected: Tensor, *, terms: float = 0.0) -> Comparison:
    """Compare two tensors of the same shape and dtype.

    Approximate is what differs by at most 32 eps of the largest element, which is what rounding
    comes to in sums of terms of that size. It is stricter than `torch.allclose`, whose absolute
    tolerance of 1e-8 is more than some gradients of a large batch are.

    Args:
        name: What they are.
        actual: The tensor to judge, not empty.
        expected: What it should equal.
        terms: The size of what was summed, where the sums may be far smaller.

    Raises:
        ValueError: The shapes or dtypes differ: they would broadcast, or be converted, unseen.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise ValueError(
            f"actual must be {expected.dtype} {[*expected.shape]} for {name}, "
            f"got {actual.dtype} {[*actual.shape]}"
        )
    maxdiff = (actual - expected).abs().max().item()
    if torch.equal(actual, expected):
        return Comparison(name, True, True, maxdiff)
    largest, eps = expected.abs().max().item(), torch.finfo(expected.dtype).eps
    approximate = maxdiff <= ROUNDINGS * eps * max(largest, terms)
    if not approximate:
        remark = _mistake(actual, expected)
    elif largest <= ROUNDINGS * eps * terms:
        remark = "rounding alone: the true value is 0"
    else:
        remark = f"rounding: {maxdiff / (largest * eps):.1g} eps of the largest, {largest:.2g}"
    return Comparison(name, False, approximate, maxdiff, remark)


def ratio(actual: Tensor, expected: Tensor) -> float | None:
    """What `actual` is times `expected`, where that is another than 1, the same everywhere."""
    size = expected.double().square().sum()
    factor = (actual.double() * expected.double()).sum() / size
    scale = factor.abs() * expected.double().abs().max()
    far = (actual.double() - factor * expected.double()).abs().max()
    is_factor = far < 1e-4 * scale and (factor - 1).abs() > 1e-4
    return factor.item() if is_factor else None


def _mistake(actual: Tensor, expected: Tensor) -> str:
    factor = ratio(actual, expected)
    if factor is not None:
        return f"is {factor:.4g} times what it should be"
    difference = torch.nan_to_num((actual - expected).abs(), nan=torch.inf)
    place = torch.unravel_index(difference.argmax(), difference.shape)
    index = [*map(int, place)]
    got, should_be = actual[place].item(), expected[place].item()
    return f"furthest at {index}: {got:.4g}, should be {should_be:.4g}"
