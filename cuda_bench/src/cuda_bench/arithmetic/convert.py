"""Conversions (cvt) and comparisons (setp, set, selp, testp), without the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault
from ..ptx.parser import Instruction
from ..ptx.types import SIZES, dtype_of
from . import floats
from .integers import Compute, Operation

Array = NDArray[Any]

FLOATS = ("f16", "bf16", "f32", "f64")
TO_INTEGRAL = {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}
KNOWN = {*SIZES, *TO_INTEGRAL, *floats.ROUNDINGS, "ftz", "sat", "relu", "satfinite"}


def conversion(instruction: Instruction) -> Operation:
    """The meaning of cvt."""
    modifiers = instruction.modifiers
    if unknown := set(modifiers) - KNOWN:
        raise Fault("unsupported", f"cvt with .{sorted(unknown)[0]}")
    result, source = [name for name in modifiers if name in SIZES]
    mode = next((name for name in modifiers if name in floats.ROUNDINGS), "rn")
    integral = next((name for name in modifiers if name in TO_INTEGRAL), None)
    ftz = "ftz" in modifiers and "f32" in (source, result)

    if result in ("f16x2", "bf16x2"):
        return ("f32", "f32"), result, _pack(result[:-2], mode, modifiers)
    if source in FLOATS and result in FLOATS:
        compute = _float_to_float(source, result, mode, integral, modifiers)
    elif source in FLOATS:
        compute = _float_to_integer(source, result, integral)
    elif result in FLOATS:

        def compute(x: Array) -> Array:
            return _integer_to_float(x, result, mode)

    else:
        compute = _integer_to_integer(result, "sat" in modifiers)
    return (source,), result, _flushing(compute, source, result) if ftz else compute


def _flushing(compute: Compute, source: str, result: str) -> Compute:
    def flushing(x: Array) -> Array:
        value = compute(floats.flush(x) if source == "f32" else x)
        return floats.flush(value) if result == "f32" else value

    return flushing


def _limit(values: Array, type: str, modifiers: tuple[str, ...]) -> Array:
    """.relu and .satfinite, before the rounding."""
    if "relu" in modifiers:
        values = np.where(values < 0, 0, values).astype(values.dtype)
    if "satfinite" in modifiers:
        largest = {"f16": 65504.0, "bf16": float.fromhex("0x1.fep127")}[type]
        values = np.clip(values, -largest, largest).astype(values.dtype)
    return values


def _pack(type: str, mode: str, modifiers: tuple[str, ...]) -> Compute:
    def pack(high: Array, low: Array) -> Array:
        halves = [
            floats.narrow(_limit(x, type, modifiers).astype(np.float64), type, mode).view(np.uint16)
            for x in (high, low)
        ]
        return halves[0].astype(np.uint32) << np.uint32(16) | halves[1]

    return pack


def _float_to_float(
    source: str, result: str, mode: str, integral: str | None, modifiers: tuple[str, ...]
) -> Compute:
    def convert(x: Array) -> Array:
        values = floats.widen(x, source)
        if integral is not None:
            values = TO_INTEGRAL[integral](values)
        if "sat" in modifiers:
            values = np.where(np.isnan(values), 0, np.clip(values, 0, 1)).astype(values.dtype)
        if source == result and source != "bf16":
            return values
        return floats.narrow(_limit(values, result, modifiers).astype(np.float64), result, mode)

    return convert


def _float_to_integer(source: str, result: str, integral: str | None) -> Compute:
    if integral is None:
        raise Fault("unsupported", f"cvt.{result}.{source} without a rounding to an integer")
    dtype = dtype_of(result)
    limits = np.iinfo(dtype)
    # NaN: zero, except where a 64-bit type is involved.
    wide = source == "f64" or dtype.itemsize == 8
    invalid = dtype.type(1 << 8 * dtype.itemsize - 1) if dtype.kind == "u" else limits.min

    def convert(x: Array) -> Array:
        rounded = TO_INTEGRAL[integral](floats.widen(x, source).astype(np.float64))
        above, below = rounded >= float(limits.max), rounded <= float(limits.min)
        inside = np.where(np.isnan(rounded) | above | below, 0, rounded).astype(dtype)
        values = np.where(above, limits.max, np.where(below, limits.min, inside))
        return np.where(np.isnan(rounded), invalid if wide else 0, values).astype(dtype)

    return convert


def _integer_to_float(x: Array, result: str, mode: str) -> Array:
    if result == "f64" or (result == "f32" and mode == "rn"):
        if result == "f64" and mode != "rn" and x.itemsize == 8:
            raise Fault("unsupported", f"a 64-bit integer to f64 with .{mode}")
        return x.astype(dtype_of(result))
    exact = x.astype(np.float64)
    if x.itemsize == 8:
        high = x >> x.dtype.type(32)
        low = x & x.dtype.type(0xFFFFFFFF)
        exact = floats.odd_sum(high.astype(np.float64) * 2.0**32, low.astype(np.float64))
    return floats.narrow(exact, result, mode)


def _integer_to_integer(result: str, saturate: bool) -> Compute:
    dtype = dtype_of(result)
    limits = np.iinfo(dtype)

    def convert(x: Array) -> Array:
        if not saturate:
            return x.astype(dtype)
        low = max(int(limits.min), int(np.iinfo(x.dtype).min))
        high = min(int(limits.max), int(np.iinfo(x.dtype).max))
        return np.clip(x, x.dtype.type(low), x.dtype.type(high)).astype(dtype)

    return convert


ORDERED: dict[str, Compute] = {
    "eq": np.equal,
    "ne": np.not_equal,
    "lt": np.less,
    "le": np.less_equal,
    "gt": np.greater,
    "ge": np.greater_equal,
    "lo": np.less,
    "ls": np.less_equal,
    "hi": np.greater,
    "hs": np.greater_equal,
}
UNORDERED = {f"{name}u": name for name in ("eq", "ne", "lt", "le", "gt", "ge")}
COMBINE: dict[str, Compute] = {
    "and": np.logical_and,
    "or": np.logical_or,
    "xor": np.logical_xor,
}


def comparison(instruction: Instruction) -> tuple[str, Compute, Compute | None]:
    """The operands' type, the comparison, and how a third operand is combined with it."""
    names = instruction.modifiers
    name = names[0]
    combine = next((COMBINE[other] for other in names[1:] if other in COMBINE), None)
    type = instruction.type
    flush = "ftz" in names

    def compare(a: Array, b: Array) -> Array:
        a, b = floats.widen(a, type), floats.widen(b, type)
        if flush and type == "f32":
            a, b = floats.flush(a), floats.flush(b)
        if name in ("num", "nan"):
            either = np.isnan(a) | np.isnan(b)
            return either if name == "nan" else ~either
        if type not in FLOATS:
            return ORDERED[name](a, b)
        result = ORDERED[UNORDERED.get(name, name)](a, b)
        unordered = np.isnan(a) | np.isnan(b)
        return result | unordered if name in UNORDERED else result & ~unordered

    if name not in ORDERED and name not in UNORDERED and name not in ("num", "nan"):
        raise Fault("unsupported", instruction.text)
    if type in ("f16x2", "bf16x2"):
        raise Fault("unsupported", instruction.text)
    return type, compare, combine


def set_operation(instruction: Instruction) -> Operation:
    """set: all ones or 1.0 where the comparison holds; halves of packed types by themselves."""
    result = next(name for name in instruction.modifiers if name in SIZES)
    packed = instruction.type.endswith("x2")
    type = instruction.type.removesuffix("x2")
    single = Instruction(
        instruction.opcode,
        tuple(name.removesuffix("x2") for name in instruction.modifiers),
        instruction.operands,
        None,
        False,
        instruction.text,
        instruction.source,
    )
    _, compare, combine = comparison(single)
    if combine is not None:
        raise Fault("unsupported", instruction.text)
    ones = {"f16": 0x3C00, "bf16": 0x3F80, "f32": 0x3F800000}
    scalar = result.removesuffix("x2")
    bits = ones.get(scalar, (1 << 8 * SIZES[scalar]) - 1)

    def compute(a: Array, b: Array) -> Array:
        if packed:
            half = dtype_of(type)
            a, b = (np.ascontiguousarray(x).view(half).reshape(-1, 2) for x in (a, b))
        holds = compare(a, b)
        unsigned = np.dtype(f"u{SIZES[scalar]}")
        values = np.where(holds, unsigned.type(bits), unsigned.type(0))
        if packed:
            return np.ascontiguousarray(values).view(np.uint32).reshape(-1)
        return values.view(dtype_of(result))

    return (instruction.type,) * 2, result, compute


TESTS: dict[str, Compute] = {
    "finite": np.isfinite,
    "infinite": np.isinf,
    "number": lambda x: ~np.isnan(x),
    "notanumber": np.isnan,
    "normal": lambda x: np.isfinite(x) & (np.abs(x) >= np.finfo(x.dtype).tiny),
    "subnormal": lambda x: (x != 0) & (np.abs(x) < np.finfo(x.dtype).tiny),
}


def _choose(holds: Array, a: Array, b: Array) -> Array:
    return np.where(holds, a, b)


def operation(instruction: Instruction) -> Operation | None:
    """cvt, set, selp, slct and testp; None if this is none of them."""
    opcode, type = instruction.opcode, instruction.type
    if opcode == "cvt":
        return conversion(instruction)
    if opcode == "set":
        return set_operation(instruction)
    if opcode == "selp":
        return (type, type, "pred"), type, lambda a, b, p: _choose(p, a, b)
    if opcode == "testp":
        return (type,), "pred", TESTS[instruction.modifiers[0]]
    if opcode == "slct":
        kind = next(name for name in instruction.modifiers if name in SIZES)
        return (kind, kind, type), kind, lambda a, b, c: _choose(c >= 0, a, b)
    return None
