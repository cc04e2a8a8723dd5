"""cvt between every pair of types that kernels use, against the definition of each rounding."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from cuda_bench import Fault, narrow
from operand_values import FORMATS, STORAGE, numbers, rounded, to_float, values
from snippets import evaluate

INTEGRAL = {"rni": round, "rzi": math.trunc, "rmi": math.floor, "rpi": math.ceil}
FLOATS = ("f16", "bf16", "f32", "f64")
INTEGERS = ("s16", "u16", "s32", "u32", "s64", "u64")


def convert(body: str, result: str, source: str, array: np.ndarray) -> np.ndarray:
    [bits] = evaluate(f"cvt.{body}.{result}.{source} %r0, %a;".replace("..", "."), [result],
                      [(source, array)])  # fmt: skip
    return bits


@pytest.mark.parametrize(
    ("result", "source", "mode"),
    [
        *(("f16", source, mode) for source in ("f32", "f64") for mode in ("rn", "rz")),
        *(("bf16", "f32", mode) for mode in ("rn", "rz")),
        *(("f32", "f64", mode) for mode in ("rn", "rz", "rm", "rp")),
        ("bf16", "f64", "rn"),
        ("bf16", "f16", "rn"),
        ("f16", "bf16", "rn"),
    ],
)
def test_to_a_narrower_format(result, source, mode):
    x = numbers(source, 1)
    # Values midway between two of the narrower format, and just beside them.
    if source in ("f32", "f64"):
        below = to_float(narrow(to_float(numbers(source, 2), source), result), result)
        below = below[np.isfinite(below)]
        half = np.abs(below) * 2.0 ** -FORMATS[result][0]
        x = np.concatenate([x, narrow(below + half, source), narrow(below + 0.75 * half, source)])
    wide = to_float(x, source)
    bits = convert(mode, result, source, x)
    expected = [
        rounded(Fraction(v), result, mode) if math.isfinite(v) else v for v in wide.tolist()
    ]
    np.testing.assert_array_equal(to_float(bits, result), expected)


@pytest.mark.parametrize(
    ("result", "source"), [("f32", "f16"), ("f32", "bf16"), ("f64", "f32"), ("f64", "f16")]
)
def test_to_a_wider_format(result, source):
    x = numbers(source, 1)
    np.testing.assert_array_equal(
        to_float(convert("", result, source, x), result), to_float(x, source)
    )


@pytest.mark.parametrize("mode", ["rn", "rz"])
@pytest.mark.parametrize("type", ["f16", "bf16"])
def test_two_values_into_one_register(type, mode):
    a, b = numbers("f32", 1), numbers("f32", 2)
    [bits] = evaluate(
        f"cvt.{mode}.{type}x2.f32 %r0, %a, %b;", [f"{type}x2"], [("f32", a), ("f32", b)]
    )
    for half, x in ((bits >> np.uint32(16), a), (bits & np.uint32(0xFFFF), b)):
        expected = [rounded(Fraction(v), type, mode) if math.isfinite(v) else v for v in x.tolist()]
        np.testing.assert_array_equal(to_float(half.astype(np.uint16), type), expected)


@pytest.mark.parametrize("type", ["f16", "bf16"])
def test_relu_and_saturation_to_finite(type):
    x = np.array([-1, 2, 1e38, 3.4e38, -3.4e38, np.inf, np.nan], np.float32)
    relu = to_float(convert("rn.relu", type, "f32", x), type)
    assert relu[0] == 0
    assert np.isnan(relu[-1])
    assert relu[4] == 0


@pytest.mark.parametrize("mode", INTEGRAL)
@pytest.mark.parametrize("result", INTEGERS)
@pytest.mark.parametrize("source", ["f16", "f32", "f64"])
def test_float_to_integer(source, result, mode):
    x = np.concatenate([numbers(source, 1), np.array([0.5, 1.5, 2.5, -0.5, -1.5], STORAGE[source])])
    bits = int(result[1:])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if result[0] == "s" else (0, 2**bits - 1)

    def value(v: float) -> int:
        if math.isnan(v):  # the middle of the range where a 64-bit type takes part
            return 2 ** (bits - 1) if source == "f64" or bits == 64 else 0
        if math.isinf(v):
            return high if v > 0 else low
        return min(max(INTEGRAL[mode](v), low), high)

    found = convert(mode, result, source, x)
    expected = [value(v) % 2**bits for v in to_float(x, source).tolist()]
    assert found.tolist() == expected


@pytest.mark.parametrize("mode", INTEGRAL)
@pytest.mark.parametrize("type", ["f16", "f32", "f64"])
def test_to_an_integral_value(type, mode):
    x = numbers(type, 1)
    expected = [float(INTEGRAL[mode](v)) if math.isfinite(v) else v for v in to_float(x, type)]
    np.testing.assert_array_equal(to_float(convert(mode, type, type, x), type), expected)


@pytest.mark.parametrize("source", INTEGERS)
@pytest.mark.parametrize(
    ("result", "mode"),
    [("f16", "rn"), ("bf16", "rn"), ("f32", "rn"), ("f32", "rz"), ("f32", "rm"), ("f32", "rp"),
     ("f64", "rn")],
)  # fmt: skip
def test_integer_to_float(source, result, mode):
    x = values(source, 3)
    if source.endswith("64"):  # just above and below the middle between two results
        middle = np.array([2**40 + 2**15, 2**62 + 2**37, 2**62 + 2**37 + 1, 2**62 + 2**37 - 1,
                           2**60 + 2**52 + 1, 2**15 + 2**3 + 1, 65519, 65520], x.dtype)  # fmt: skip
        x = np.concatenate([x, middle])
    expected = [rounded(Fraction(int(v)), result, mode) for v in x]
    np.testing.assert_array_equal(to_float(convert(mode, result, source, x), result), expected)


def narrows(result: str, source: str) -> bool:
    """Whether a value may not fit: PTX has .sat only there."""
    smaller = int(result[1:]) < int(source[1:])
    return smaller or (result[0] != source[0] and (result[0] == "u" or result[1:] == source[1:]))


@pytest.mark.parametrize(
    ("result", "source", "saturate"),
    [
        (result, source, saturate)
        for result, source in itertools.product(INTEGERS, INTEGERS)
        for saturate in (False, True)
        if narrows(result, source) or not saturate
    ],
)
def test_integer_to_integer(result, source, saturate):
    x, bits = values(source, 3), int(result[1:])
    low, high = (-(2 ** (bits - 1)), 2 ** (bits - 1) - 1) if result[0] == "s" else (0, 2**bits - 1)
    expected = [(min(max(int(v), low), high) if saturate else int(v)) % 2**bits for v in x]
    assert convert("sat" if saturate else "", result, source, x).tolist() == expected


@pytest.mark.parametrize("type", ["s8", "u8"])
def test_bytes_are_extended_in_their_register(type):
    x = np.arange(256, dtype=np.uint32) * 257
    [bits] = evaluate(f"cvt.s32.{type} %r0, %a;", ["s32"], [("u32", x)])
    expected = x.astype(np.uint8).view(np.int8 if type == "s8" else np.uint8).astype(np.int32)
    assert (bits.view(np.int32) == expected).all()


def test_subnormals_are_flushed_where_asked():
    x = np.array([1e-40, -1e-40, 1.0], np.float32)
    [bits] = evaluate("cvt.ftz.f64.f32 %r0, %a;", ["f64"], [("f32", x)])
    assert bits.view(np.float64).tolist() == [0, 0, 1]


def test_an_unknown_rounding_is_a_fault():
    with pytest.raises(Fault, match="unsupported"):
        evaluate("cvt.rna.tf32.f32 %r0, %a;", ["f32"], [("f32", np.zeros(1, np.float32))])
