"""Floating-point instructions against exact rational arithmetic, and against numpy."""

import itertools
import math
from fractions import Fraction

import numpy as np
import pytest
from cuda_bench import Device, narrow
from operand_values import numbers, rounded, to_float
from snippets import evaluate


def assert_same(bits: np.ndarray, type: str, expected: list[float]) -> None:
    found = to_float(bits, type)
    np.testing.assert_array_equal(found, np.array(expected))


EXACT = {
    "add": (2, lambda a, b: a + b),
    "sub": (2, lambda a, b: a - b),
    "mul": (2, lambda a, b: a * b),
    "fma": (3, lambda a, b, c: a * b + c),
}


def expected(function, operands: list[np.ndarray], type: str, mode: str) -> list[float]:
    results = []
    for row in zip(*operands, strict=True):
        if all(math.isfinite(x) for x in row):
            results.append(rounded(function(*(Fraction(float(x)) for x in row)), type, mode))
        else:
            with np.errstate(invalid="ignore"):
                results.append(float(function(*row)))
    return results


@pytest.mark.parametrize(
    ("name", "type", "mode"),
    [
        *itertools.product(EXACT, ("f32", "f64"), ["rn"]),
        *itertools.product(EXACT, ["f32"], ("rz", "rm", "rp")),
        *itertools.product(EXACT, ("f16", "bf16"), ["rn"]),
    ],
)
def test_is_rounded_once(name, type, mode):
    arity, function = EXACT[name]
    stored = [numbers(type, seed) for seed in range(arity)]
    if name == "fma":  # results that nearly cancel, where a second rounding would show
        with np.errstate(all="ignore"):
            product = -to_float(stored[0], type) * to_float(stored[1], type)
            cancelling = narrow(product, type)
        stored[2][::2] = cancelling[::2]
    names = ", ".join(f"%{letter}" for letter, _ in zip("abc", stored, strict=False))
    rounding = "" if name == "sub" and type in ("f16", "bf16") else f".{mode}"
    body = f"{name}{rounding}.{type} %r0, {names};"
    [bits] = evaluate(body, [type], [(type, array) for array in stored])
    values = [to_float(array, type) for array in stored]
    assert_same(bits, type, expected(function, values, type, mode))


def test_a_fused_product_is_not_rounded_in_between():
    a = np.array([1 + 2**-30], np.float64)
    [bits] = evaluate("fma.rn.f64 %r0, %a, %a, %b;", ["f64"], [("f64", a), ("f64", -(a * a))])
    assert bits.view(np.float64)[0] == 2.0**-60


@pytest.mark.parametrize("type", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["add", "mul", "fma"])
def test_packed_halves_are_computed_separately(name, type):
    arity, function = EXACT[name]
    stored = [numbers(type, seed)[:128] for seed in range(arity)]
    packed = [(f"{type}x2", array.view(np.uint32)) for array in stored]
    names = ", ".join(f"%{letter}" for letter, _ in zip("abc", stored, strict=False))
    [bits] = evaluate(f"{name}.rn.{type}x2 %r0, {names};", [f"{type}x2"], packed)
    values = [to_float(array, type) for array in stored]
    assert_same(bits.view(np.uint16), type, expected(function, values, type, "rn"))


@pytest.mark.parametrize("type", ["f32", "f64"])
@pytest.mark.parametrize(
    ("body", "function"),
    [
        ("div.rn.{} %r0, %a, %b;", lambda a, b: a / b),
        ("rcp.rn.{} %r0, %a;", lambda a, b: a.dtype.type(1) / a),
        ("sqrt.rn.{} %r0, %a;", lambda a, b: np.sqrt(a)),
        ("neg.{} %r0, %a;", lambda a, b: -a),
        ("abs.{} %r0, %a;", lambda a, b: np.abs(a)),
        ("copysign.{} %r0, %a, %b;", lambda a, b: np.copysign(b, a)),
        ("min.{} %r0, %a, %b;", lambda a, b: np.fmin(a, b)),
        ("max.{} %r0, %a, %b;", lambda a, b: np.fmax(a, b)),
    ],
)  # fmt: skip
def test_as_in_numpy(body, function, type):
    a, b = numbers(type, 1), numbers(type, 2)
    [bits] = evaluate(body.format(type), [type], [(type, a), (type, b)])
    with np.errstate(all="ignore"):
        assert_same(bits, type, list(function(a, b)))


@pytest.mark.parametrize("type", ["f32", "f16", "bf16"])
@pytest.mark.parametrize("name", ["min", "max"])
def test_nan_propagates_where_asked(name, type):
    a, b = numbers(type, 1), numbers(type, 2)
    [bits] = evaluate(f"{name}.NaN.{type} %r0, %a, %b;", [type], [(type, a), (type, b)])
    function = np.minimum if name == "min" else np.maximum
    assert_same(bits, type, list(function(to_float(a, type), to_float(b, type))))


def test_minimum_of_zeros_is_negative():
    a, b = np.array([0.0, -0.0], np.float32), np.array([-0.0, 0.0], np.float32)
    body = "min.f32 %r0, %a, %b; max.f32 %r1, %a, %b;"
    low, high = evaluate(body, ["f32", "f32"], [("f32", a), ("f32", b)])
    assert np.signbit(low.view(np.float32)).all()
    assert not np.signbit(high.view(np.float32)).any()


def test_subnormals_are_flushed_where_asked():
    a = np.array([1e-40, -1e-40, 1e-38, 1.5], np.float32)
    one = np.full(4, 0.5, np.float32)
    body = "mul.ftz.f32 %r0, %a, %b; add.ftz.f32 %r1, %a, %b; mul.f32 %r2, %a, %b;"
    product, total, kept = evaluate(body, ["f32"] * 3, [("f32", a), ("f32", one)])
    assert product.view(np.float32).tolist() == [0, 0, 0, 0.75]
    assert np.signbit(product.view(np.float32)).tolist() == [False, True, False, False]
    assert (total.view(np.float32) == np.float32(0.5) + np.array([0, 0, 1e-38, 1.5], "f")).all()
    assert (kept.view(np.float32) == a * one).all()


def test_saturation_and_relu():
    a = np.array([-2, -0.25, 0.25, 1, 7, np.nan, np.inf], np.float32)
    one = np.ones(7, np.float32)
    [bits] = evaluate("mul.sat.f32 %r0, %a, %b;", ["f32"], [("f32", a), ("f32", one)])
    assert bits.view(np.float32).tolist() == [0, 0, 0.25, 1, 1, 0, 1]
    operands = [("f16", a.astype(np.float16)), ("f16", one.astype(np.float16))]
    zero = ".reg .b16 %zero; mov.b16 %zero, 0;"
    [bits] = evaluate(f"{zero} fma.rn.relu.f16 %r0, %a, %b, %zero;", ["f16"], operands)
    np.testing.assert_array_equal(bits.view(np.float16), [0, 0, 0.25, 1, 7, np.nan, np.inf])


FUNCTIONS = {
    "ex2.approx.f32": (np.exp2, -20, 20, 2**-22),
    "ex2.approx.ftz.f32": (np.exp2, -20, 20, 2**-22),
    "lg2.approx.f32": (np.log2, 2, 1e6, 2**-21),
    "rcp.approx.ftz.f32": (np.reciprocal, 0.1, 100, 2**-23),
    "rsqrt.approx.f32": (lambda x: 1 / np.sqrt(x), 0.1, 100, 2**-22),
    "sqrt.approx.f32": (np.sqrt, 0.1, 100, 2**-22),
    "sin.approx.f32": (np.sin, 0.5, 2.5, 2**-19),
    "cos.approx.f32": (np.cos, -1, 1, 2**-19),
    "tanh.approx.f32": (np.tanh, 0.1, 3, 2**-10.9),
}


@pytest.mark.parametrize("seed", [None, 1, 2])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_approximations_keep_their_bound(name, seed):
    function, low, high, bound = FUNCTIONS[name]
    x = np.random.default_rng(0).uniform(low, high, 1000).astype(np.float32)
    device = Device(approximation_seed=seed)
    [bits] = evaluate(f"{name} %r0, %a;", ["f32"], [("f32", x)], device=device)
    truth = function(x.astype(np.float64))
    error = np.abs(bits.view(np.float32) / truth - 1).max()
    assert error <= (0 if seed is None else bound) + 2**-24
    if seed is not None:  # and they make use of it
        assert error > bound / 4


@pytest.mark.parametrize("type", ["f16", "bf16"])
@pytest.mark.parametrize("name", ["ex2", "tanh"])
def test_narrow_approximations(name, type):
    ftz = ".ftz" if (name, type) == ("ex2", "bf16") else ""
    x = numbers(type, 5)
    [bits] = evaluate(f"{name}.approx{ftz}.{type} %r0, %a;", [type], [(type, x)])
    with np.errstate(all="ignore"):
        truth = {"ex2": np.exp2, "tanh": np.tanh}[name](to_float(x, type))
    exact = narrow(truth, type)
    np.testing.assert_array_equal(to_float(bits, type), to_float(exact, type))


@pytest.mark.parametrize("body", ["div.approx.f32 %r0, %a, %b;", "div.full.f32 %r0, %a, %b;"])
@pytest.mark.parametrize("seed", [None, 3])
def test_approximate_division(body, seed):
    rng = np.random.default_rng(0)
    a, b = rng.uniform(0.1, 10, (2, 1000)).astype(np.float32)
    [bits] = evaluate(
        body, ["f32"], [("f32", a), ("f32", b)], device=Device(approximation_seed=seed)
    )
    error = np.abs(bits.view(np.float32) / (a.astype(np.float64) / b) - 1).max()
    assert error <= (2**-24 if seed is None else 2.5 * 2**-23)


def test_the_same_operand_gives_the_same_approximation():
    x = np.full(64, 0.3, np.float32)
    [bits] = evaluate(
        "ex2.approx.f32 %r0, %a;", ["f32"], [("f32", x)], device=Device(approximation_seed=4)
    )
    assert len(set(bits.tolist())) == 1


COMPARISONS = ("eq", "ne", "lt", "le", "gt", "ge")


@pytest.mark.parametrize("type", ["f16", "bf16", "f32", "f64"])
@pytest.mark.parametrize("unordered", [False, True])
@pytest.mark.parametrize("name", COMPARISONS)
def test_comparisons_with_nan(name, unordered, type):
    a, b = numbers(type, 1), numbers(type, 2)
    b[::3] = a[::3]
    body = f"setp.{name}{'u' if unordered else ''}.{type} %r0, %a, %b;"
    [holds] = evaluate(body, ["pred"], [(type, a), (type, b)])
    x, y = to_float(a, type), to_float(b, type)
    either = np.isnan(x) | np.isnan(y)
    plain = {"eq": x == y, "ne": x != y, "lt": x < y, "le": x <= y, "gt": x > y, "ge": x >= y}[name]
    assert (holds == np.where(either, unordered, plain)).all()


def test_num_and_nan():
    a, b = numbers("f32", 1), numbers("f32", 2)
    body = "setp.num.f32 %r0, %a, %b; setp.nan.f32 %r1, %a, %b;"
    number, invalid = evaluate(body, ["pred", "pred"], [("f32", a), ("f32", b)])
    assert (invalid == (np.isnan(a) | np.isnan(b))).all()
    assert (number == 1 - invalid).all()


@pytest.mark.parametrize(
    ("test", "function"),
    [
        ("finite", np.isfinite),
        ("infinite", np.isinf),
        ("number", lambda x: ~np.isnan(x)),
        ("notanumber", np.isnan),
        ("subnormal", lambda x: (x != 0) & (np.abs(x) < 2.0**-126)),
        ("normal", lambda x: np.isfinite(x) & (np.abs(x) >= 2.0**-126)),
    ],
)
def test_testp(test, function):
    a = numbers("f32", 1)
    [holds] = evaluate(f"testp.{test}.f32 %r0, %a;", ["pred"], [("f32", a)])
    assert (holds == function(a)).all()


def test_set_makes_ones():
    a, b = numbers("f16", 1)[:64], numbers("f16", 2)[:64]
    packed = [("f16x2", a.view(np.uint32)), ("f16x2", b.view(np.uint32))]
    [bits] = evaluate("set.gt.f16x2.f16x2 %r0, %a, %b;", ["f16x2"], packed)
    assert (bits.view(np.float16) == (a > b)).all()
    operands = [("f32", a.astype(np.float32)), ("f32", b.astype(np.float32))]
    mask, one = evaluate(
        "set.gt.u32.f32 %r0, %a, %b; set.gt.f32.f32 %r1, %a, %b;", ["u32", "f32"], operands
    )
    assert (mask == np.where(a > b, 2**32 - 1, 0)).all()
    assert (one.view(np.float32) == (a > b)).all()
