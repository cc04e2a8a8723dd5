"""Operands for the tests of instructions, and the definition of what rounding makes of them."""

import math
from fractions import Fraction

import numpy as np
from cuda_bench import narrow, widen

EDGES = [0, 1, 2, 3, 5, 7, 31, 32, 33, 127, 128, 255, 256, 32767, 32768, 65535]
FORMATS = {
    "f16": (11, -14, 15),
    "bf16": (8, -126, 127),
    "f32": (24, -126, 127),
    "f64": (53, -1022, 1023),
}
STORAGE = {"f16": np.float16, "bf16": np.uint16, "f32": np.float32, "f64": np.float64}


def to_float(bits: np.ndarray, type: str) -> np.ndarray:
    """Stored bits as float64."""
    if type == "bf16":
        return widen(bits.view(np.uint16), "bf16").astype(np.float64)
    return bits.view(STORAGE[type]).astype(np.float64)


def numbers(type: str, seed: int) -> np.ndarray:
    """Stored values of every magnitude, among them zeros, subnormals, infinities and NaN."""
    digits, low, high = FORMATS[type]
    rng = np.random.default_rng(seed)
    near = np.ldexp(rng.standard_normal(150), rng.integers(-3, 4, 150))
    far = np.ldexp(rng.standard_normal(60), rng.integers(low - digits // 2, high, 60))
    tiny = math.ldexp(1, low - digits + 1)
    special = [0.0, -0.0, 1.0, -1.0, 1.5, np.inf, -np.inf, np.nan, tiny, -tiny, 3.0, 0.1]
    halves = np.arange(1, 19) + 2.0**-digits * (np.arange(18) % 3 - 1)
    both = rng.permutation(np.concatenate([near, far, special, halves]))
    return narrow(both, type)


def rounded(exact: Fraction, type: str, mode: str = "rn") -> float:
    """A rational number in a format: by the definition of the rounding, nothing else."""
    digits, low, high = FORMATS[type]
    if exact == 0:
        return 0.0
    size = abs(exact)
    exponent = math.floor(math.log2(size)) if 2.0**-1000 < size < 2.0**1000 else 0
    if not 2.0**-1000 < size < 2.0**1000:
        exponent = size.numerator.bit_length() - size.denominator.bit_length()
    while Fraction(2) ** exponent > size:
        exponent -= 1
    while Fraction(2) ** (exponent + 1) <= size:
        exponent += 1
    unit = Fraction(2) ** (max(exponent, low) - digits + 1)
    count, rest = divmod(size, unit)
    negative = exact < 0
    up = {
        "rn": 2 * rest > unit or (2 * rest == unit and count % 2 == 1),
        "rz": False,
        "rm": negative and rest > 0,
        "rp": not negative and rest > 0,
    }[mode]
    value = (count + up) * unit
    largest = (2 - Fraction(2) ** (1 - digits)) * Fraction(2) ** high
    if value > largest:
        down = mode == "rz" or mode == ("rp" if negative else "rm")
        result = float(largest) if down else math.inf
    else:
        result = float(value)
    return -result if negative else result


def values(type: str, seed: int) -> np.ndarray:
    """Edge cases and random bits, in the same number for every type."""
    bits = int(type[1:])
    edges = [*EDGES, 2 ** (bits - 1) - 1, 2 ** (bits - 1), 2**bits - 1, 2**bits - 7]
    random = np.random.default_rng(seed).integers(0, 2**64, 108, np.uint64, endpoint=False)
    numbers = [edge % 2**bits for edge in edges] + [int(number) % 2**bits for number in random]
    array = np.array(numbers, f"u{bits // 8}")
    return (
        np.random.default_rng(seed + 1)
        .permutation(array)
        .view(f"{type[0]}{bits // 8}".replace("s", "i").replace("b", "u"))
    )
