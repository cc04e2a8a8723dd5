"""PTX's fundamental types: their sizes, and how numpy sees their values."""

from __future__ import annotations

from typing import Any

import numpy as np

from ..faults import Fault

# The size in bytes of every fundamental type that a variable or an instruction may have.
SIZES = {
    **{f"{kind}{bits}": bits // 8 for kind in "bus" for bits in (8, 16, 32, 64)},
    "f16": 2,
    "bf16": 2,
    "f16x2": 4,
    "bf16x2": 4,
    "f32": 4,
    "f64": 8,
    "b128": 16,
    "pred": 1,
}
UNSIGNED = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}
SIGNED = {1: np.int8, 2: np.int16, 4: np.int32, 8: np.int64}


def dtype_of(type: str) -> np.dtype[Any]:
    """How the values of a PTX type are seen in numpy; bf16 and packed types as their bits."""
    if type == "pred":
        return np.dtype(bool)
    if type in ("f16", "f32", "f64"):
        return np.dtype(f"float{type[1:]}")
    size = SIZES.get(type)
    if size not in UNSIGNED:
        raise Fault("unsupported", f"type .{type}")
    return np.dtype(SIGNED[size] if type.startswith("s") else UNSIGNED[size])
