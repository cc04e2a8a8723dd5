"""Checks of arguments that are not tensors; those of tensors are in ops/tensors.py."""

import operator
from typing import Any

import torch
from torch import Tensor


def require(condition: bool, name: str, value: object, allowed: str) -> None:
    """Raises ValueError, with what is allowed, unless `condition` holds."""
    if not condition:
        raise ValueError(f"{name} must be {allowed}, got {value!r}")


def checked_integer(name: str, value: Any, *, minimum: int) -> int:
    """`value` as an int; raises ValueError unless it is an integer of at least `minimum`."""
    integer = as_integer(value)
    fits = isinstance(integer, int) and integer >= minimum
    require(fits, name, value, f"an integer of at least {minimum}")
    return integer


def checked_number(name: str, value: Any, *, below: float, allowed: str) -> float:
    """`value` as a Python number; raises ValueError unless it is one in [0, below)."""
    number = as_number(value)
    require(isinstance(number, (int, float)) and 0 <= number < below, name, value, allowed)
    return number


def as_integer(value: Any) -> Any:
    """As an int what torch takes for one: an integer of numpy, or a tensor of a single one.

    Anything else comes back as it is, for the caller to refuse.
    """
    if isinstance(value, (int, torch.SymInt)) or (
        isinstance(value, Tensor) and value.dtype == torch.bool
    ):
        return value
    try:
        return operator.index(value)
    except (TypeError, RuntimeError):  # no integer, or one without a value: on the meta device
        return value


def as_number(value: Any) -> Any:
    """As a float what torch takes for one: a scalar of numpy, or of a tensor that needs no grad.

    Python's own numbers, and anything else, come back as they are.
    """
    if isinstance(value, (int, float)):
        return value
    if isinstance(value, Tensor):
        fits = not (value.dim() or value.requires_grad or value.is_complex() or value.is_meta)
    else:
        kind = getattr(getattr(value, "dtype", None), "kind", "none")
        fits = kind in ("b", "i", "u", "f") and value.shape == ()
    return float(value) if fits else value
