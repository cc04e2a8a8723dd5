"""The stand-in for the CUDA runtime: every function that a launcher may call."""

import numpy as np
import pytest
from cuda_bench import Device, Fault
from cuda_bench.launchers import Launchers
from samples import KERNELS, needs_nvcc

pytestmark = needs_nvcc


@pytest.fixture(scope="module")
def launchers():
    return Launchers(KERNELS / "runtime.cu")


def test_arguments_of_every_type(launchers):
    device = Device()
    y = device.empty(6, np.float64)
    arguments = [y, -3, 2**40, np.float32(0.5), 0.25, True, None]
    assert launchers.call(device, "launch_arguments", *arguments) == 0
    assert y.numpy().tolist() == [-3, 2**40, 0.5, 0.25, 1, 0]


@pytest.mark.parametrize("value", [0, 7, 255])
def test_fill_and_copy(launchers, value):
    device = Device()
    x, y = device.empty(10, np.uint8), device.empty(10, np.uint8)
    assert launchers.call(device, "fill_and_copy", x, y, value, 10, None) == 0
    assert (y.numpy() == value).all()
    with pytest.raises(Fault, match="out of bounds"):
        launchers.call(device, "fill_and_copy", x, y, value, 11, None)


def test_copying_what_nothing_wrote_does_not_initialise_it(launchers):
    device = Device()
    x, y = device.empty(10, np.uint8), device.empty(10, np.uint8)
    device.fill(x.address, 1, 4)
    device.copy(y.address, x.address, 10)
    assert y.numpy(allow_unwritten=True)[:4].tolist() == [1, 1, 1, 1]
    with pytest.raises(Fault, match=r"element \(4,\)"):
        y.numpy()


@pytest.mark.parametrize(
    ("architecture", "bytes", "code"),
    [("8.0", 48 * 1024, 0), ("8.0", 100 * 1024, 0), ("8.0", 200 * 1024, 1), ("7.5", 100 * 1024, 1)],
)
def test_more_shared_memory(architecture, bytes, code):
    device = Device()
    y = device.empty(1, np.int32)
    launchers = Launchers(KERNELS / "runtime.cu", architecture)
    assert launchers.call(device, "launch_shared", y, bytes, True, None, check=False) == code
    assert code or y.numpy()[0] == bytes


def test_more_shared_memory_must_be_asked_for(launchers):
    device = Device()
    with pytest.raises(Fault, match="bytes of shared memory"):
        launchers.call(device, "launch_shared", device.empty(1, np.int32), 50_000, False, None)
    code = launchers.call(
        device, "launch_shared", device.empty(1, np.int32), 50_000, False, None, check=False
    )
    assert code == 9


@pytest.mark.parametrize("architecture", ["7.5", "9.0"])
def test_the_device_says_what_it_is(architecture):
    device = Device()
    y = np.zeros(4, np.int32)
    launchers = Launchers(KERNELS / "runtime.cu", architecture)
    assert launchers.call(device, "device_properties", y.ctypes.data) == 0
    assert y.tolist() == [*map(int, architecture.split(".")), 4, 32]


@pytest.mark.parametrize("which", range(4))
def test_what_a_graph_cannot_hold_is_a_fault(launchers, which):
    with pytest.raises(Fault, match="in a launcher: no CUDA graph could hold it"):
        launchers.call(Device(), "forbidden", which)


def test_an_error_stays_until_it_is_asked_for(launchers):
    device = Device()
    assert launchers.call(device, "launch_nothing", check=False) == 9
    assert launchers.call(device, "last_error") == 0


def test_several_launches_in_order(launchers):
    device = Device()
    y = device.array(np.arange(5, dtype=np.int32))
    assert launchers.call(device, "launch_twice", y, 5, 0x77) == 0
    assert [(launch.grid, launch.stream) for launch in launchers.launched] == [
        ((5, 1, 1), 0x77), ((1, 5, 1), 0x77)
    ]  # fmt: skip
    assert y.numpy().tolist() == [(value + 1) * 2 for value in range(5)]
