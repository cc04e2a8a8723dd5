"""The sample kernels through their launchers: right for every architecture, and the same bits in
whatever order the blocks run."""

import functools

import numpy as np
import pytest
from cuda_bench import Device, Fault
from cuda_bench.launchers import Launched, Launchers
from samples import CASES, KERNELS, log_sum_exp, needs_nvcc

pytestmark = needs_nvcc


@functools.cache
def launchers(file: str, architecture: str = "8.0") -> Launchers:
    return Launchers(KERNELS / file, architecture)


TABLE = [(file, case) for file, cases in CASES.items() for case in cases]


@pytest.mark.parametrize("architecture", ["7.5", "8.0", "12.0"])
@pytest.mark.parametrize(("file", "case"), TABLE)
def test_result(file, case, architecture):
    CASES[file][case](launchers(file, architecture), Device())


@pytest.mark.parametrize(("file", "case"), TABLE)
def test_same_bits_in_every_order(file, case):
    devices = [
        Device(order=order, concurrent_blocks=together, shuffle_seed=7)
        for order in ("forward", "reversed", "shuffled")
        for together in (None, 1, 3)
    ]
    first, *others = [CASES[file][case](launchers(file), device) for device in devices]
    for other in others:
        assert other.tobytes() == first.tobytes()


@pytest.mark.parametrize("seed", range(3))
def test_bounds_do_not_lean_on_exact_exponentials(seed):
    log_sum_exp(launchers("softmax.cu"), Device(approximation_seed=seed), 5, 1037)


def test_what_a_launcher_launches():
    sums = launchers("column_sums.cu")
    CASES["column_sums.cu"]["no multiple"](sums, Device())
    assert sums.launched == [Launched("column_sums", (2, 5, 1), (32, 8, 1), 1024, 0)]


def test_nothing_is_launched_for_nothing():
    device = Device()
    nothing = device.empty((0, 4), np.float32)
    lse = launchers("softmax.cu")
    assert lse.call(device, "launch_log_sum_exp", nothing, nothing, 0, 4, None) == 0
    assert lse.launched == []


def test_a_fault_reaches_the_launcher_and_the_test():
    device = Device()
    x, y = device.array(np.zeros((4, 8), np.float32)), device.empty(3, np.float32)
    lse = launchers("softmax.cu")
    with pytest.raises(Fault, match="out of bounds"):
        lse.call(device, "launch_log_sum_exp", x, y, 4, 8, None)
    assert lse.call(device, "launch_log_sum_exp", x, y, 4, 8, None, check=False) == 719
    assert lse.call(device, "launch_log_sum_exp", x, y, 3, 8, None) == 0


def test_the_stream_is_passed_on():
    device = Device()
    x, y = device.array(np.zeros((1, 8), np.float32)), device.empty(1, np.float32)
    lse = launchers("softmax.cu")
    lse.call(device, "launch_log_sum_exp", x, y, 1, 8, 0x1234)
    assert lse.launched[0].stream == 0x1234
