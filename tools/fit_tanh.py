"""Fit the table of csrc/cpu/simd/tanh_table.h and write that file.

[0, 12) is cut into intervals by the three highest bits of a float's mantissa and its exponent, four
to a power of two: the lowest begins at 0, the last are those where tanh is 1 in float32. In each,
tanh(x) is a polynomial in x - centre whose relative error is least (a minimax fit by iteratively
reweighted least squares). The centre is a float near the middle whose tanh is all but a float
itself, so that the constant term costs no rounding (Gal's accurate tables); coefficients are
rounded from the lowest power on, and the others fitted again. Run it as
`python tools/fit_tanh.py`; it prints each interval and its error.
"""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

TARGET = Path(__file__).resolve().parents[1] / "csrc" / "cpu" / "simd" / "tanh_table.h"
ENTRIES = 32
DEGREE = 5
DROPPED_BITS = 21  # of a float's 23 bits of mantissa, by which an interval's floats differ
HIGHEST = 10.0  # where the last interval begins
NODES = 400
CANDIDATES = 3000  # on either side of the middle, in units in the last place
HEADER = """\
// Polynomials that are tanh in {entries} intervals of [0, infinity). Made by tools/fit_tanh.py,
// which says how.
#pragma once

namespace makemore_ext::cpu {{

// An interval's number is the low bits of a float's in it, shifted right by so much.
inline constexpr int kTanhShift = {dropped};
// The first interval ends soon after this: all below has the number of this.
inline constexpr float kTanhLowest = {lowest};
// tanh is 1 in float from here on: what is above has the number of this.
inline constexpr float kTanhHighest = {highest};
inline constexpr int kTanhDegree = {degree};

// tanh(x) = sum over k of coefficient[k][i] (x - centre[i])^k to within {error:.1e} of its value.
struct TanhTable {{
  alignas(64) float centre[{entries}];
  alignas(64) float coefficient[kTanhDegree + 1][{entries}];
}};
// clang-format off
inline constexpr TanhTable kTanhTable = {{
  {{{centre}}},
  {{
{coefficients}
  }}}};
// clang-format on

}}  // namespace makemore_ext::cpu
"""


def float_of(bits: int) -> float:
    """The float32 with these bits."""
    return float(np.int32(bits).view(np.float32))


def bits_of(value: float) -> int:
    """The bits of a float32."""
    return int(np.float32(value).view(np.int32))


def centre_between(begin: float, end: float) -> float:
    """The float near the middle whose tanh is nearest to a float."""
    middle = bits_of((begin + end) / 2)
    floats = np.array([float_of(middle + i) for i in range(-CANDIDATES, CANDIDATES + 1)])
    exact = np.tanh(floats)
    rounded = exact.astype(np.float32)
    errors = np.abs(rounded.astype(np.float64) - exact) / np.spacing(rounded)
    return float(floats[np.argmin(errors)])


def fit(begin: float, end: float, centre: float) -> tuple[NDArray[np.float64], float]:
    """Coefficients that are floats, and the largest relative error between `begin` and `end`."""
    nodes = np.cos(np.pi * (np.arange(NODES) + 0.5) / NODES)
    x = (begin + end) / 2 + (end - begin) / 2 * nodes
    truth = np.tanh(x)
    powers = np.stack([(x - centre) ** k for k in range(DEGREE + 1)], axis=1)
    coefficients = np.zeros(DEGREE + 1)
    coefficients[0] = np.float32(np.tanh(centre))
    for known in range(1, DEGREE + 1):
        terms = powers[:, known:] / truth[:, None]
        rest = 1 - powers[:, :known] @ coefficients[:known] / truth
        weights = np.ones(NODES)
        for _ in range(60):  # Lawson's algorithm
            root = np.sqrt(weights)
            fitted = np.linalg.lstsq(terms * root[:, None], rest * root, rcond=None)[0]
            weights *= np.abs(rest - terms @ fitted) + 1e-300
            weights /= weights.mean()
        coefficients[known] = np.float32(fitted[0])
    return coefficients, float(np.abs(powers @ coefficients / truth - 1).max())


def main() -> None:
    """Fit, print, write."""
    last = bits_of(HIGHEST) >> DROPPED_BITS
    first = last - ENTRIES + 1
    centres = np.zeros(ENTRIES)
    table = np.zeros((ENTRIES, DEGREE + 1))
    worst = 0.0
    for interval in range(first, last):
        end = float_of(interval + 1 << DROPPED_BITS)
        begin = float_of(interval << DROPPED_BITS) if interval > first else 0.0
        centre = centre_between(begin, end) if interval > first else 0.0
        entry = interval % ENTRIES
        centres[entry] = centre
        table[entry], error = fit(begin, end, centre)
        worst = max(worst, error)
        print(f"[{begin:g}, {end:g}) about {centre:g}: error {error:.1e}")
    centres[last % ENTRIES] = HIGHEST
    table[last % ENTRIES, 0] = 1

    def listed(values: NDArray[np.float64]) -> str:
        return ", ".join(f"{value:.9g}f" if value % 1 else f"{value:.1f}f" for value in values)

    TARGET.write_text(
        HEADER.format(
            entries=ENTRIES,
            dropped=DROPPED_BITS,
            lowest=f"{float_of(first << DROPPED_BITS)}f",
            highest=f"{HIGHEST}f",
            degree=DEGREE,
            error=worst,
            centre=listed(centres),
            coefficients="\n".join(f"    {{{listed(row)}}}," for row in table.T),
        )
    )


if __name__ == "__main__":
    main()
