"""How two tensors that should be equal differ, and what it may come from."""

from typing import NamedTuple

import torch
from torch import Tensor


class Comparison(NamedTuple):
    """How two tensors that should be equal differ.

    Attributes:
        name: What is compared.
        exact: Whether all elements are equal.
        approximate: Whether all elements are close in the sense of `torch.allclose`.
        maxdiff: The largest absolute difference.
        remark: Where they are not equal, what they differ by: roundings, a factor, an element.
    """

    name: str
    exact: bool
    approximate: bool
    maxdiff: float
    remark: str = ""


def compare(name: str, actual: Tensor, expected: Tensor, *, atol: float = 1e-8) -> Comparison:
    """Compare two tensors of the same shape and dtype, with `torch.allclose`'s default rtol.

    Args:
        name: What they are.
        actual: The tensor to judge, not empty.
        expected: What it should equal.
        atol: The absolute tolerance; the default is that of `torch.allclose`.

    Raises:
        ValueError: The shapes or dtypes differ: they would broadcast, or be converted, unseen.
    """
    if actual.shape != expected.shape or actual.dtype != expected.dtype:
        raise ValueError(
            f"actual must be {expected.dtype} {[*expected.shape]} for {name}, "
            f"got {actual.dtype} {[*actual.shape]}"
        )
    approximate = torch.allclose(actual, expected, atol=atol)
    maxdiff = (actual - expected).abs().max().item()
    if torch.equal(actual, expected):
        return Comparison(name, True, approximate, maxdiff)
    remark = _rounding(maxdiff, expected) if approximate else _mistake(actual, expected)
    return Comparison(name, False, approximate, maxdiff, remark)


def ratio(actual: Tensor, expected: Tensor) -> float | None:
    """By what `actual` is `expected` times, where it is so everywhere to a thousandth."""
    size = expected.double().square().sum()
    factor = (actual.double() * expected.double()).sum() / size
    scale = factor.abs() * expected.double().abs().max()
    far = (actual.double() - factor * expected.double()).abs().max()
    return factor.item() if far < 1e-3 * scale else None


def _rounding(maxdiff: float, expected: Tensor) -> str:
    largest, eps = expected.abs().max().item(), torch.finfo(expected.dtype).eps
    if largest < eps:
        return "rounding alone: the true value is 0"
    return f"rounding: {maxdiff / (largest * eps):.1g} eps of the largest, {largest:.2g}"


def _mistake(actual: Tensor, expected: Tensor) -> str:
    factor = ratio(actual, expected)
    if factor is not None:
        return f"is {factor:.4g} times what it should be"
    difference = torch.nan_to_num((actual - expected).abs(), nan=torch.inf)
    place = torch.unravel_index(difference.argmax(), difference.shape)
    index = [*map(int, place)]
    got, should_be = actual[place].item(), expected[place].item()
    return f"furthest at {index}: {got:.4g}, should be {should_be:.4g}"
