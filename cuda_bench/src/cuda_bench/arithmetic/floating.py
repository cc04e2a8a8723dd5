"""What floating-point instructions compute: functions of numpy arrays, without the machine."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..faults import Fault
from ..ptx.parser import Instruction
from . import floats
from .integers import Compute, Operation

Array = NDArray[Any]

APPROXIMATE = ("ex2", "lg2", "sin", "cos", "tanh", "rcp", "sqrt", "rsqrt")


def operation(instruction: Instruction, approximate: floats.Approximator) -> Operation | None:
    """The meaning of an instruction on floating-point values, None if this is not one."""
    type = instruction.type
    if type in ("f16x2", "bf16x2"):
        single = _scalar(instruction, type[:-2], approximate)
        if single is None:
            return None
        sources, _, compute = single
        return (type,) * len(sources), type, _packed(compute, type[:-2])
    if type in ("f16", "bf16", "f32", "f64"):
        return _scalar(instruction, type, approximate)
    return None


def _packed(compute: Compute, type: str) -> Compute:
    """Applies a function to both halves of 32-bit operands."""
    half = np.float16 if type == "f16" else np.uint16

    def apply(*operands: Array) -> Array:
        halves = [np.ascontiguousarray(x).view(half).reshape(-1, 2) for x in operands]
        result: Array = np.ascontiguousarray(compute(*halves)).view(np.uint32)
        return result.reshape(-1)

    return apply


def _scalar(
    instruction: Instruction, type: str, approximate: floats.Approximator
) -> Operation | None:
    modifiers = instruction.modifiers
    mode = next((name for name in modifiers if name in floats.ROUNDINGS), "rn")
    arity, compute = _value(instruction, type, mode, approximate)
    if compute is None:
        return None

    def whole(*operands: Array) -> Array:
        values = [floats.widen(x, type) for x in operands]
        if "ftz" in modifiers and type == "f32":
            values = [floats.flush(x) for x in values]
        result = compute(*values)
        if "sat" in modifiers:
            result = _clamp(result, type)
        if "relu" in modifiers:
            result = _rectify(result, type)
        if "ftz" in modifiers and type == "f32":
            result = floats.flush(result)
        return result

    return (type,) * arity, type, whole


def _value(
    instruction: Instruction, type: str, mode: str, approximate: floats.Approximator
) -> tuple[int, Compute | None]:
    opcode, modifiers = instruction.opcode, instruction.modifiers
    if opcode in APPROXIMATE and not (
        opcode in ("rcp", "sqrt") and any(name in floats.ROUNDINGS for name in modifiers)
    ):
        wide = type == "f64" and ("ftz" in modifiers) != (opcode == "rcp")
        if (opcode, type) not in floats.APPROXIMATIONS or wide:
            raise Fault("unsupported", instruction.text)
        return 1, lambda x: approximate(opcode, x, type)
    if opcode == "div" and ("approx" in modifiers or "full" in modifiers):
        return 2, approximate.quotient
    if opcode in ("rcp", "sqrt", "div"):
        if mode != "rn":
            raise Fault("unsupported", instruction.text)
        if opcode == "div":
            return 2, np.divide
        return 1, np.sqrt if opcode == "sqrt" else lambda x: x.dtype.type(1) / x
    narrow_bits: Compute = lambda x: floats.narrow(x, type) if type == "bf16" else x  # noqa: E731
    table: dict[str, tuple[int, Compute]] = {
        "add": (2, lambda a, b: floats.add(a, b, type, mode)),
        "sub": (2, lambda a, b: floats.add(a, -b, type, mode)),
        "mul": (2, lambda a, b: floats.multiply(a, b, type, mode)),
        "fma": (3, lambda a, b, c: floats.multiply_add(a, b, c, type, mode)),
        "mad": (3, lambda a, b, c: floats.multiply_add(a, b, c, type, mode)),
        "neg": (1, lambda x: narrow_bits(-x)),
        "abs": (1, lambda x: narrow_bits(np.abs(x))),
        "copysign": (2, lambda sign, x: narrow_bits(np.copysign(x, sign))),
    }
    if opcode in ("min", "max"):
        if "abs" in modifiers or "xorsign" in modifiers or len(instruction.operands) > 3:
            raise Fault("unsupported", instruction.text)
        smaller, nan = opcode == "min", "NaN" in modifiers
        return 2, lambda a, b: narrow_bits(floats.minimum_maximum(a, b, smaller, nan))
    return table.get(opcode, (0, None))


def _clamp(values: Array, type: str) -> Array:
    """.sat: to [0, 1], NaN to 0."""
    wide = floats.widen(values, type)
    clamped = np.where(np.isnan(wide), 0, np.clip(wide, 0, 1)).astype(wide.dtype)
    return floats.narrow(clamped, type)


def _rectify(values: Array, type: str) -> Array:
    """.relu: negative values to 0, NaN stays."""
    wide = floats.widen(values, type)
    return floats.narrow(np.where(wide < 0, 0, wide).astype(wide.dtype), type)
