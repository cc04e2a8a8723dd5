"""Floating point as PTX defines it: exact rounding where it is exact, stated bounds elsewhere.

f16 is numpy's; bf16 is kept as uint16. Sums and products of narrow types are formed in float64 and
rounded to odd there, which makes the later rounding to the narrow type the only one that counts
(Boldo and Melquiond, "Emulation of FMA and correctly rounded sums", 2008).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault

Array = NDArray[Any]

ROUNDINGS = ("rn", "rz", "rm", "rp")


def widen(bits: Array, type: str) -> Array:
    """The values of bits of a narrow type, in float32 or float16; other types pass."""
    if type == "bf16":
        return (bits.astype(np.uint32) << np.uint32(16)).view(np.float32)
    return bits


def narrow(values: Array, type: str, mode: str = "rn") -> Array:
    """Values (float64, or exact in it) rounded once to f16, bf16, f32 or f64."""
    if type == "f64":
        return values.astype(np.float64)
    with np.errstate(all="ignore"):
        if type == "bf16":
            return _bf16_bits(values.astype(np.float64), mode)
        dtype = np.dtype(np.float16 if type == "f16" else np.float32)
        if mode == "rn" or values.dtype == dtype:
            return values.astype(dtype)
        return _directed(values.astype(np.float64), dtype, mode)


def _directed(exact: Array, dtype: np.dtype[Any], mode: str) -> Array:
    nearest = exact.astype(dtype)
    back = nearest.astype(np.float64)
    if mode == "rz":
        wrong, direction = np.abs(back) > np.abs(exact), np.zeros_like(nearest)
    elif mode == "rm":
        wrong, direction = back > exact, np.full_like(nearest, -np.inf)
    elif mode == "rp":
        wrong, direction = back < exact, np.full_like(nearest, np.inf)
    else:
        raise Fault("unsupported", f"rounding .{mode}")
    return np.where(wrong, np.nextafter(nearest, direction), nearest)


def _bf16_bits(exact: Array, mode: str) -> Array:
    # To float32 by rounding to odd: toward zero, the last bit set where that lost something.
    single = _directed(exact, np.dtype(np.float32), "rz")
    inexact = np.isfinite(single) & (single.astype(np.float64) != exact)
    bits = single.view(np.uint32) | inexact.astype(np.uint32)
    if mode == "rn":
        # A value that float32 cannot hold is at its largest, odd, and carries over to infinity.
        rounded = bits + np.uint32(0x7FFF) + ((bits >> np.uint32(16)) & np.uint32(1))
    elif mode == "rz":
        rounded = bits
    else:
        raise Fault("unsupported", f"rounding .{mode} to bf16")
    return np.where(
        np.isnan(exact), np.uint16(0x7FFF), (rounded >> np.uint32(16)).astype(np.uint16)
    )


def _two_sum(a: Array, b: Array) -> tuple[Array, Array]:
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def odd_sum(a: Array, b: Array) -> Array:
    """float64 sums rounded to odd: toward zero, the last bit set where that lost something."""
    total, error = _two_sum(a, b)
    bits = total.view(np.int64).copy()
    inexact = (error != 0) & np.isfinite(total) & ((bits & 1) == 0)
    away = (error > 0) == (total > 0)
    bits[inexact & away] += 1
    bits[inexact & ~away] -= 1
    return bits.view(np.float64)


def multiply_add(a: Array, b: Array, c: Array, type: str, mode: str = "rn") -> Array:
    """a·b + c with one rounding. bf16 operands come widened, the result is in bits."""
    if type == "f64":
        if mode != "rn":
            raise Fault("unsupported", f"fma.{mode}.f64")
        return _multiply_add_double(a, b, c)
    product = a.astype(np.float64) * b.astype(np.float64)  # exact: 24 + 24 bits
    addend = c.astype(np.float64)
    total = product + addend
    if type == "f32" and mode == "rn":
        # The second rounding can only go wrong from the middle between two float32.
        middle = (total.view(np.uint64) & np.uint64(0x1FFFFFFF)) == np.uint64(0x10000000)
        tiny = np.abs(total) < 2.0**-126
        if not (middle | tiny).any():
            return total.astype(np.float32)
    return narrow(odd_sum(product, addend), type, mode)


def add(a: Array, b: Array, type: str, mode: str = "rn") -> Array:
    """A + b with one rounding, as multiply_add."""
    if type in ("f32", "f64") and mode == "rn":
        return a + b
    return multiply_add(a, np.ones_like(a), b, type, mode)


def multiply(a: Array, b: Array, type: str, mode: str = "rn") -> Array:
    """a·b with one rounding, as multiply_add."""
    if mode == "rn" and type in ("f32", "f64"):
        return a * b
    if type == "f64":
        raise Fault("unsupported", f"mul.{mode}.f64")
    return narrow(a.astype(np.float64) * b.astype(np.float64), type, mode)


def _split(a: Array) -> tuple[Array, Array]:
    scaled = a * 134217729.0  # 2²⁷ + 1: Veltkamp's splitting into 26 + 26 bits
    high = scaled - (scaled - a)
    return high, a - high


def _multiply_add_double(a: Array, b: Array, c: Array) -> Array:
    a, b, c = np.broadcast_arrays(a, b, c)
    product = a * b
    (a1, a2), (b1, b2) = _split(a), _split(b)
    rest = a2 * b2 - (((product - a1 * b1) - a2 * b1) - a1 * b2)
    low, low_error = _two_sum(c, rest)
    high, high_error = _two_sum(product, low)
    result: Array = high + odd_sum(low_error, high_error)

    # Outside these ranges an error term may overflow or vanish: there, by rational arithmetic.
    def safe(x: Array, limit: float) -> Array:
        return (x == 0) | ((np.abs(x) > 1 / limit) & (np.abs(x) < limit))

    plain = ~np.isfinite(product) & ~(np.isfinite(a) & np.isfinite(b)) | ~np.isfinite(c)
    result = np.where(plain | (a == 0) | (b == 0), product + c, result)
    special = ~plain & ~(safe(a, 2.0**400) & safe(b, 2.0**400) & safe(c, 2.0**900))
    for index in np.flatnonzero(special):
        exact = Fraction(float(a[index])) * Fraction(float(b[index])) + Fraction(float(c[index]))
        try:
            # A sum of zero keeps the sign that the rounded sum has.
            result[index] = float(exact) if exact else product[index] + c[index]
        except OverflowError:
            result[index] = np.inf if exact > 0 else -np.inf
    return result


def flush(values: Array) -> Array:
    """.ftz: float32 subnormals become zeros of their sign."""
    return np.where(np.abs(values) < np.float32(2.0**-126), np.copysign(0, values), values).astype(
        values.dtype
    )


def minimum_maximum(a: Array, b: Array, smaller: bool, propagate_nan: bool) -> Array:
    """Min or max. One NaN gives the other operand unless it propagates; -0 is below +0."""
    choose = np.signbit(a) == smaller
    result = np.where(
        a == b, np.where(choose, a, b), np.fmin(a, b) if smaller else np.fmax(a, b)
    ).astype(a.dtype)
    if propagate_nan:
        result[np.broadcast_to(np.isnan(a) | np.isnan(b), result.shape)] = np.nan
    return result


@dataclass(frozen=True)
class Approximation:
    """A function that hardware approximates, and how far off the PTX manual lets it be."""

    function: Callable[[Array], Array]  # in float64
    ulp: float = 0  # in units in the last place of the result
    relative: float = 0
    absolute: float = 0
    absolute_within: tuple[float, float] = (-np.inf, np.inf)  # inputs; elsewhere `relative`


def _reciprocal_root(x: Array) -> Array:
    return 1 / np.sqrt(x)


APPROXIMATIONS: dict[tuple[str, str], Approximation] = {
    ("ex2", "f32"): Approximation(np.exp2, ulp=2),
    ("lg2", "f32"): Approximation(
        np.log2, relative=2**-22, absolute=2**-22, absolute_within=(0.5, 2.0)
    ),
    ("rcp", "f32"): Approximation(np.reciprocal, ulp=1),
    ("sqrt", "f32"): Approximation(np.sqrt, relative=2**-23),
    ("rsqrt", "f32"): Approximation(_reciprocal_root, relative=2**-22.9),
    ("sin", "f32"): Approximation(np.sin, absolute=2**-20.5),
    ("cos", "f32"): Approximation(np.cos, absolute=2**-20.5),
    ("tanh", "f32"): Approximation(np.tanh, relative=2**-11),
    ("ex2", "f16"): Approximation(np.exp2, relative=2**-9.9),
    ("tanh", "f16"): Approximation(np.tanh, absolute=2**-10.987),
    ("ex2", "bf16"): Approximation(np.exp2, relative=2**-7),
    ("tanh", "bf16"): Approximation(np.tanh, absolute=2**-8),
    ("rcp", "f64"): Approximation(np.reciprocal, relative=2**-20),
    ("rsqrt", "f64"): Approximation(_reciprocal_root, ulp=1),
}


class Approximator:
    """Computes what hardware approximates: exactly rounded, or as wrong as it may be.

    With a seed every result is off by the documented bound, up, down or not at all, and then
    rounded. A hash of the operand chooses: as in hardware, the same operand gives the same result.
    """

    def __init__(self, seed: int | None) -> None:
        self.seed = seed

    def __call__(self, opcode: str, x: Array, type: str) -> Array:
        approximation = APPROXIMATIONS[opcode, type]
        wide = x.astype(np.float64)
        truth = approximation.function(wide)
        if self.seed is not None:
            truth = truth + self._error(approximation, wide, truth, type)
        if (opcode, type) == ("rcp", "f64"):  # rcp.approx.ftz.f64 gives the upper half of the bits
            return (truth.view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)
        return narrow(truth, type)

    def quotient(self, a: Array, b: Array) -> Array:
        """div.approx and div.full: 2 ulp."""
        truth = a.astype(np.float64) / b.astype(np.float64)
        if self.seed is not None:
            truth = truth + self._error(Approximation(np.abs, ulp=2), b + a, truth, "f32")
        return truth.astype(np.float32)

    def _error(self, bound: Approximation, x: Array, truth: Array, type: str) -> Array:
        digits = {"f16": 11, "bf16": 8, "f32": 24, "f64": 53}[type]
        exponent = np.frexp(truth)[1]
        size = bound.ulp * np.ldexp(1.0, exponent - digits) + bound.relative * np.abs(truth)
        if bound.absolute:
            low, high = bound.absolute_within
            size = np.where((x > low) & (x < high), bound.absolute, size)
        mixed = x.astype(np.float64).view(np.uint64) ^ np.uint64(self.seed or 0)
        for shift in (33, 29, 32):
            mixed = (mixed ^ (mixed >> np.uint64(shift))) * np.uint64(0xFF51AFD7ED558CCD)
        direction = (mixed >> np.uint64(40)).astype(np.int64) % 3 - 1
        # Exact on the values that the manual lists: 2⁰, log 1, infinities and what becomes 0.
        exact = (x == 0) | (truth == 0) | ~np.isfinite(truth)
        return np.where(exact, 0, direction * size)
