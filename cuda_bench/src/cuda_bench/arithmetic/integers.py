"""What integer and bit instructions compute: functions of numpy arrays, without the machine."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault
from ..ptx.parser import Instruction
from ..ptx.types import SIZES, UNSIGNED, dtype_of

Array = NDArray[Any]
Compute = Callable[..., Array]
# The types of the sources, the type of the result, and the function.
Operation = tuple[tuple[str, ...], str, Compute]

WIDER = {"s16": "s32", "u16": "u32", "s32": "s64", "u32": "u64"}
TWO_OPERANDS: dict[str, Compute] = {
    "add": np.add,
    "sub": np.subtract,
    "and": np.bitwise_and,
    "or": np.bitwise_or,
    "xor": np.bitwise_xor,
    "min": np.minimum,
    "max": np.maximum,
}


def operation(instruction: Instruction) -> Operation | None:
    """The meaning of an instruction on integers, None if this is not one."""
    opcode, type = instruction.opcode, instruction.type
    if type == "pred":
        return _logic(opcode)
    if type not in SIZES or type.startswith(("f", "bf")):
        return None
    if opcode in ("mul", "mad", "mul24", "mad24"):
        return _product(instruction)
    if opcode in TWO_OPERANDS:
        if "sat" in instruction.modifiers:
            return (type, type), type, _saturating(opcode, type)
        return (type, type), type, TWO_OPERANDS[opcode]
    signed = type.startswith("s")
    bits = 8 * SIZES[type]
    simple: dict[str, Operation] = {
        "not": ((type,), type, np.invert),
        "cnot": ((type,), type, lambda x: (x == 0).astype(x.dtype)),
        "neg": ((type,), type, lambda x: np.zeros_like(x) - x),
        "abs": ((type,), type, np.abs),
        "shl": ((type, "u32"), type, lambda x, n: _shift_left(x, n, bits)),
        "shr": ((type, "u32"), type, lambda x, n: _shift_right(x, n, bits)),
        "div": ((type, type), type, _quotient),
        "rem": ((type, type), type, _remainder),
        "sad": ((type, type, type), type, lambda a, b, c: c + np.where(a < b, b - a, a - b)),
        "popc": ((type,), "u32", lambda x: np.bitwise_count(x).astype(np.uint32)),
        "clz": ((type,), "u32", lambda x: _leading_zeros(x, bits)),
        "brev": ((type,), type, lambda x: _reversed(x, bits)),
        "bfind": ((type,), "u32", lambda x: _highest(x, bits, "shiftamt" in instruction.modifiers)),
        "bfe": ((type, "u32", "u32"), type, lambda x, s, n: _extract(x, s, n, bits, signed)),
        "bfi": ((type, type, "u32", "u32"), type, lambda a, b, s, n: _insert(a, b, s, n, bits)),
        "prmt": (("u32", "u32", "u32"), "u32", _permute),
        "lop3": (("u32", "u32", "u32", "u32"), "u32", _any_logic),
    }
    if opcode == "bmsk":
        wrap = "wrap" in instruction.modifiers
        return ("u32", "u32"), "u32", lambda start, length: _mask(start, length, wrap)
    if opcode == "dp4a":
        kinds = instruction.modifiers[:2]
        return (*kinds, type), type, lambda a, b, c: _dot_of_bytes(a, b, c)
    if opcode == "prmt" and instruction.modifiers != ("b32",):
        raise Fault("unsupported", instruction.text)
    if opcode == "shf":
        left, clamp = "l" in instruction.modifiers, "clamp" in instruction.modifiers
        return ("u32", "u32", "u32"), "u32", lambda a, b, n: _funnel(a, b, n, left, clamp)
    return simple.get(opcode)


def _logic(opcode: str) -> Operation | None:
    if opcode == "not":
        return ("pred",), "pred", np.logical_not
    if opcode in ("and", "or", "xor"):
        return ("pred", "pred"), "pred", getattr(np, f"logical_{opcode}")
    return None


def _product(instruction: Instruction) -> Operation:
    type, modifiers = instruction.type, instruction.modifiers
    add = instruction.opcode.startswith("mad")
    if "wide" in modifiers:
        result = WIDER[type]
        wide = dtype_of(result)
        sources = (type, type, result) if add else (type, type)

        def compute(a: Array, b: Array, *addend: Array) -> Array:
            product: Array = a.astype(wide) * b.astype(wide)
            return product + addend[0] if addend else product

        return sources, result, compute
    if "hi" in modifiers:
        multiply: Compute = high_product
    elif instruction.opcode.endswith("24"):
        multiply = _product24
    else:
        multiply = np.multiply
    if not add:
        return (type, type), type, multiply
    return (type, type, type), type, lambda a, b, c: multiply(a, b) + c


def high_product(a: Array, b: Array) -> Array:
    """The upper half of the double-width product."""
    if a.itemsize < 8:
        wide = np.int64 if a.dtype.kind == "i" else np.uint64
        return ((a.astype(wide) * b.astype(wide)) >> wide(8 * a.itemsize)).astype(a.dtype)
    low, half = np.uint64(0xFFFFFFFF), np.uint64(32)
    x, y = a.view(np.uint64), b.view(np.uint64)
    x0, x1, y0, y1 = x & low, x >> half, y & low, y >> half
    middle = x1 * y0 + (x0 * y0 >> half)
    other = x0 * y1 + (middle & low)
    high = x1 * y1 + (middle >> half) + (other >> half)
    if a.dtype.kind == "i":
        high = high - np.where(a < 0, y, np.uint64(0)) - np.where(b < 0, x, np.uint64(0))
    return high.view(a.dtype)


def _product24(a: Array, b: Array) -> Array:
    if a.dtype.kind == "i":
        return (a << 8 >> 8) * (b << 8 >> 8)
    return (a & np.uint32(0xFFFFFF)) * (b & np.uint32(0xFFFFFF))


def _saturating(opcode: str, type: str) -> Compute:
    if type != "s32":
        raise Fault("unsupported", f"{opcode}.sat.{type}")

    def compute(a: Array, b: Array) -> Array:
        exact = TWO_OPERANDS[opcode](a.astype(np.int64), b.astype(np.int64))
        return np.clip(exact, -(2**31), 2**31 - 1).astype(np.int32)

    return compute


def _shift_left(x: Array, count: Array, bits: int) -> Array:
    shifted = x << np.minimum(count, bits - 1).astype(x.dtype)
    return np.where(count < bits, shifted, 0).astype(x.dtype)


def _shift_right(x: Array, count: Array, bits: int) -> Array:
    if x.dtype.kind == "i":
        return x >> np.minimum(count, bits - 1).astype(x.dtype)
    return np.where(count < bits, x >> np.minimum(count, bits - 1).astype(x.dtype), 0).astype(
        x.dtype
    )


def _quotient(a: Array, b: Array) -> Array:
    """Toward zero; a division by zero gives all ones, as the devices do."""
    divisor = np.where(b == 0, 1, b).astype(a.dtype)
    if a.dtype.kind == "i":
        unsigned = UNSIGNED[a.itemsize]
        size = np.abs(a).view(unsigned) // np.abs(divisor).view(unsigned)
        result = np.where((a < 0) != (divisor < 0), np.zeros_like(size) - size, size).view(a.dtype)
    else:
        result = a // divisor
    return np.where(b == 0, ~np.zeros_like(a), result)


def _remainder(a: Array, b: Array) -> Array:
    return np.where(b == 0, a, a - _quotient(a, b) * b)


def _leading_zeros(x: Array, bits: int) -> Array:
    value = x.view(UNSIGNED[x.itemsize]).copy()
    for shift in (1, 2, 4, 8, 16, 32):  # copy the highest one into every place below
        if shift < bits:
            value |= value >> value.dtype.type(shift)
    return np.uint32(bits) - np.bitwise_count(value).astype(np.uint32)


def _highest(x: Array, bits: int, as_shift: bool) -> Array:
    value = np.where(x < 0, ~x, x) if x.dtype.kind == "i" else x
    zeros = _leading_zeros(value, bits)
    place = zeros if as_shift else np.uint32(bits - 1) - zeros
    return np.where(zeros == bits, np.uint32(0xFFFFFFFF), place).astype(np.uint32)


def _reversed(x: Array, bits: int) -> Array:
    result = np.zeros_like(x)
    for position in range(bits):
        bit = x >> x.dtype.type(position) & x.dtype.type(1)
        result |= bit << x.dtype.type(bits - 1 - position)
    return result


def _extract(x: Array, start: Array, length: Array, bits: int, signed: bool) -> Array:
    start = (start & np.uint32(255)).astype(np.int64)
    length = (length & np.uint32(255)).astype(np.int64)
    position = np.arange(bits)
    source = np.minimum(start[..., None] + position, bits - 1)
    value = x.view(UNSIGNED[x.itemsize]).astype(np.uint64)[..., None]
    bit = value >> source.astype(np.uint64) & np.uint64(1)
    inside = position < np.minimum(length, bits)[..., None]
    inside &= start[..., None] + position < bits
    if signed:
        last = np.minimum(start + length - 1, bits - 1)
        sign = (value[..., 0] >> np.maximum(last, 0).astype(np.uint64) & np.uint64(1))[..., None]
        bit = np.where(inside, bit, np.where(length[..., None] == 0, 0, sign))
    else:
        bit = np.where(inside, bit, 0)
    packed = (bit.astype(np.uint64) << position.astype(np.uint64)).sum(axis=-1, dtype=np.uint64)
    return packed.astype(UNSIGNED[x.itemsize]).view(x.dtype)


def _insert(field: Array, base: Array, start: Array, length: Array, bits: int) -> Array:
    start, length = start & np.uint32(255), np.minimum(length & np.uint32(255), np.uint32(bits))
    ones = ~np.zeros_like(base)
    low = np.where(
        length == bits, ones, _shift_left(np.ones_like(base), length, bits) - ones * 0 - 1
    )
    mask = _shift_left(low.astype(base.dtype), start, bits)
    return base & ~mask | _shift_left(field, start, bits) & mask


def _mask(start: Array, length: Array, wrap: bool) -> Array:
    if wrap:
        start, length = start & np.uint32(31), length & np.uint32(31)
    ones = _shift_left(np.ones_like(length), length, 32) - np.uint32(1)
    return _shift_left(ones, start, 32)


def _dot_of_bytes(a: Array, b: Array, c: Array) -> Array:
    a, b = np.broadcast_arrays(a, b)
    parts = [
        np.ascontiguousarray(x).view(np.int8 if x.dtype.kind == "i" else np.uint8).astype(np.int32)
        for x in (a, b)
    ]
    products: Array = (parts[0] * parts[1]).reshape(-1, 4).sum(axis=1, dtype=np.int32)
    return c + products.view(c.dtype)


def _permute(a: Array, b: Array, selector: Array) -> Array:
    both = a.astype(np.uint64) | b.astype(np.uint64) << np.uint64(32)
    result = np.zeros(np.broadcast(a, b, selector).shape, np.uint32)
    for position in range(4):
        choice = (selector >> np.uint32(4 * position)).astype(np.uint64)
        byte = (both >> ((choice & np.uint64(7)) * np.uint64(8)) & np.uint64(255)).astype(np.uint32)
        sign = np.where(byte & np.uint32(128), np.uint32(255), np.uint32(0))
        byte = np.where(choice & np.uint64(8), sign, byte)
        result |= byte << np.uint32(8 * position)
    return result


def _funnel(low: Array, high: Array, count: Array, left: bool, clamp: bool) -> Array:
    count = np.minimum(count, np.uint32(32)) if clamp else count & np.uint32(31)
    wide = count.astype(np.uint64)
    both = high.astype(np.uint64) << np.uint64(32) | low
    shifted = both << wide >> np.uint64(32) if left else both >> wide
    return shifted.astype(np.uint32)


def _any_logic(a: Array, b: Array, c: Array, table: Array) -> Array:
    """Bit (a, b, c) of the result is bit 4a + 2b + c of the table."""
    result = np.zeros(np.broadcast(a, b, c).shape, np.uint32)
    for row in range(8):
        if int(table.flat[0]) >> row & 1:
            result |= (a if row & 4 else ~a) & (b if row & 2 else ~b) & (c if row & 1 else ~c)
    return result
