"""The sample kernels and what they must compute: used whole in test_kernels.py, and broken in
test_mutations.py. Every function of CASES runs one launcher and compares with numpy in float64."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from cuda_bench import Device, Module, narrow, toolkit, widen
from cuda_bench.launchers import Launchers

KERNELS = Path(__file__).parent / "kernels"

needs_nvcc = pytest.mark.skipif(toolkit.missing() is not None, reason=str(toolkit.missing()))


def kernels(name: str, architecture: str = "8.0") -> Module:
    """The kernels of one of the sample files."""
    return toolkit.load(KERNELS / name, architecture)


SCALE_TYPES = {"f32": (0, np.float32), "f16": (1, np.float16), "bf16": (2, np.uint16)}


def log_sum_exp(launchers: Launchers, device: Device, rows: int, columns: int, offset: int = 0):
    x = (np.random.default_rng(0).standard_normal((rows, columns)) * 4).astype(np.float32)
    x[0, :-1] = -np.inf
    y = device.empty(rows, np.float32)
    inputs = device.array(x, offset=offset)
    assert launchers.call(device, "launch_log_sum_exp", inputs, y, rows, columns, None) == 0
    wide = x.astype(np.float64)
    most = wide.max(1, keepdims=True)
    expected = most[:, 0] + np.log(np.exp(wide - most).sum(1))
    np.testing.assert_allclose(y.numpy(), expected, rtol=2e-6, atol=2e-6)
    return y.numpy()


def column_sums(launchers: Launchers, device: Device, rows: int, columns: int):
    x = np.random.default_rng(1).standard_normal((rows, columns)).astype(np.float32)
    tiles, groups = -(-rows // 64), -(-columns // 32)
    partial = device.empty((tiles, columns), np.float32)
    finished, y = device.empty(groups, np.uint32), device.empty(columns, np.float32)
    arguments = [device.array(x), partial, finished, y, rows, columns, None]
    assert launchers.call(device, "launch_column_sums", *arguments) == 0
    expected = x.astype(np.float64).sum(0)
    np.testing.assert_allclose(y.numpy(), expected, rtol=1e-5, atol=1e-5)
    return y.numpy()


def histogram(launchers: Launchers, device: Device, count: int, bins: int):
    indices = np.random.default_rng(2).integers(0, bins, count)
    counts = device.empty(bins, np.uint32)
    inputs = device.array(indices)
    assert launchers.call(device, "launch_histogram", inputs, count, counts, bins, None) == 0
    np.testing.assert_array_equal(counts.numpy(), np.bincount(indices, minlength=bins))
    return counts.numpy()


def scale(launchers: Launchers, device: Device, count: int, type: str):
    number, dtype = SCALE_TYPES[type]
    x = narrow(np.random.default_rng(3).standard_normal(count), type)
    y = device.empty(count, dtype)
    factor = np.float32(1.7)
    arguments = [device.array(x), y, count, factor, number, None]
    assert launchers.call(device, "launch_scale", *arguments) == 0
    expected = narrow(widen(x, type).astype(np.float32) * factor, type)
    np.testing.assert_array_equal(y.numpy(), expected)
    return y.numpy()


# File of the kernel: every call that its tests make, by what the case is about.
CASES = {
    "softmax.cu": {
        "one value": lambda launchers, device: log_sum_exp(launchers, device, 2, 1),
        "few columns": lambda launchers, device: log_sum_exp(launchers, device, 3, 5),
        "no multiple": lambda launchers, device: log_sum_exp(launchers, device, 5, 1037),
        "unaligned": lambda launchers, device: log_sum_exp(launchers, device, 4, 600, offset=1),
        "one row": lambda launchers, device: log_sum_exp(launchers, device, 1, 4096),
    },
    "column_sums.cu": {
        "one value": lambda launchers, device: column_sums(launchers, device, 1, 1),
        "one tile": lambda launchers, device: column_sums(launchers, device, 60, 32),
        "no multiple": lambda launchers, device: column_sums(launchers, device, 300, 45),
    },
    "histogram.cu": {
        "few": lambda launchers, device: histogram(launchers, device, 7, 27),
        "no multiple": lambda launchers, device: histogram(launchers, device, 1001, 130),
    },
    "scale.cu": {
        f"{type}, {count}": lambda launchers, device, count=count, type=type: scale(
            launchers, device, count, type
        )
        for type in SCALE_TYPES
        for count in (1, 8, 1003)
    },
}
