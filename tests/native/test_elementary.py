"""The error bounds that csrc/cpu/simd/elementary.h states, and the conversions of vec.h beside it.

Every 131st float32 is checked, and every one with `pytest -m slow`, which takes ten minutes.
"""

import math

import native_library as native
import pytest
import torch
from support import seeded
from torch import Tensor

FUNCTIONS = {
    "exp": (native.exp, torch.exp, 1.1),
    "exp_nonpositive": (
        lambda x: native.exp_nonpositive(x.clamp(max=0)),
        lambda x: x.clamp(max=0).exp().where(x.isnan() | (x > SMALLEST_NORMAL_EXPONENT), 0),
        1.1,
    ),
    "log": (native.log, torch.log, 1.0),
    "tanh": (native.tanh, torch.tanh, 1.5),
}
CHUNK = 2**24
SMALLEST_NORMAL_EXPONENT = math.log(torch.finfo(torch.float32).smallest_normal)


def ulp(truth: Tensor, dtype: torch.dtype) -> Tensor:
    """The distance to the next larger magnitude in `dtype`, in float64."""
    magnitude = truth.to(dtype).abs()
    return (torch.nextafter(magnitude, torch.tensor(torch.inf, dtype=dtype)) - magnitude).double()


def floats(first: int, step: int) -> Tensor:
    """The float32 values of every `step`-th of CHUNK adjacent bit patterns."""
    bits = torch.arange(first, first + CHUNK, step, dtype=torch.int64)
    return bits.to(torch.int32).view(torch.float32)


@pytest.mark.parametrize("step", [131, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("sign", [0, -(2**31)], ids=["positive", "negative"])
@pytest.mark.parametrize(("function", "reference", "bound"), FUNCTIONS.values(), ids=FUNCTIONS)
def test_error_in_float32(function, reference, bound, sign, step):
    # Whoever's, a float64 function is nothing off, in float32's ulps.
    worst = 0.0
    for first in range(sign, sign + 2**31, CHUNK):
        x = floats(first, step)
        y, truth = function(x), reference(x.double())
        rounded = truth.float()
        finite = rounded.isfinite()
        assert torch.equal(y[~finite].nan_to_num(7), rounded[~finite].nan_to_num(7))
        error = (y.double() - truth).abs() / ulp(truth, torch.float32)
        worst = max(worst, error[finite].max().item() if finite.any() else 0.0)
    assert worst <= bound


@pytest.mark.parametrize(
    ("function", "reference", "bound"),
    [
        (native.exp, math.exp, 1.5),
        (native.log, lambda x: math.log(x) if x > 0 else math.nan, 1.0),
        (native.tanh, math.tanh, 2.5),
    ],
    ids=["exp", "log", "tanh"],
)
def test_error_in_float64(function, reference, bound):
    # The C library's own functions, which are within 1 ulp, stand for the truth.
    generator = seeded()
    scale = 10.0 ** torch.randint(-9, 3, (100_000,), generator=generator)
    x = torch.randn(100_000, dtype=torch.float64, generator=generator) * scale
    x = x.clamp(-700, 700)
    truth = torch.tensor([reference(value) for value in x.tolist()], dtype=torch.float64)
    error = (function(x) - truth).abs() / ulp(truth, torch.float64)
    assert error[~truth.isnan()].max() <= bound


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_limits(dtype):
    nan, inf, tiny = torch.nan, torch.inf, torch.finfo(dtype).smallest_normal / 8
    x = torch.tensor([nan, inf, -inf, 1e30, -1e30, 0, -0.0, tiny], dtype=dtype)
    exp = torch.tensor([nan, inf, 0, inf, 0, 1, 1, 1], dtype=dtype)
    log = [nan, inf, nan, math.log(1e30), nan, -inf, -inf, math.log(tiny)]
    tanh = torch.tensor([nan, 1, -1, 1, -1, 0, -0.0, tiny], dtype=dtype)
    torch.testing.assert_close(native.exp(x), exp, equal_nan=True, rtol=0, atol=0)
    torch.testing.assert_close(native.log(x), torch.tensor(log, dtype=dtype), equal_nan=True)
    torch.testing.assert_close(native.tanh(x), tanh, equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_tanh_is_odd_and_at_most_1(dtype):
    x = torch.linspace(0, 25, 2**20, dtype=dtype)
    y = native.tanh(x)
    assert y.max() == 1
    assert torch.equal(native.tanh(-x), -y)


@pytest.mark.parametrize("count", range(18))
def test_a_value_does_not_depend_on_its_place(count):
    x = torch.linspace(-3, 3, 18)
    assert torch.equal(native.exp(x[:count]), native.exp(x)[:count])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_widening_is_exact(dtype):
    every = torch.arange(2**16).to(torch.int16).view(dtype)
    torch.testing.assert_close(native.widen(every), every.float(), equal_nan=True, rtol=0, atol=0)


@pytest.mark.parametrize("step", [131, pytest.param(1, marks=pytest.mark.slow)])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrowing_rounds_to_nearest_even(dtype, step):
    for first in range(-(2**31), 2**31, CHUNK):
        x = floats(first, step)
        actual, expected = native.narrow(x, dtype), x.to(dtype)
        numbers = ~x.isnan()
        assert torch.equal(actual[numbers].view(torch.int16), expected[numbers].view(torch.int16))
        assert actual[~numbers].isnan().all()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_narrowing_ties(dtype):
    exact = torch.arange(2**15 - 2**11, dtype=torch.int32).to(torch.int16).view(dtype).float()
    ties = ((exact[:-1] + exact[1:]) / 2).clamp(max=6e4)
    actual = native.narrow(ties, dtype)
    assert torch.equal(actual, ties.to(dtype))
