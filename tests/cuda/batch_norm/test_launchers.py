"""The launchers of batch norm, executed by the bench, against float64."""

import ctypes
import dataclasses

import pytest
import torch
from batch_norm_check import check, check_huge_doubles, check_part
from batch_norm_table import CASES, HUGE_DOUBLES, PARTS, TANH, Case
from cuda_bench import Device
from launched import NUMBERS, Unrun, call, launchers, needs_nvcc
from launched_batch_norm import (
    Arguments,
    BatchNorm,
    ChannelShape,
    ChannelView,
    Options,
    RunningStatistics,
)

pytestmark = needs_nvcc


@pytest.fixture(scope="module")
def compiled():
    return launchers("batch_norm")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_agrees_with_the_truth(case, compiled):
    check(case, compiled, Device())


@pytest.mark.parametrize("case", PARTS, ids=lambda case: f"{case.id}-{case.options}")
def test_a_part_of_a_batch(case, compiled):
    check_part(case, compiled, Device())


def test_the_table_is_large_enough():
    assert len(CASES) >= 120


ORDERS = {
    "reversed": {"order": "reversed"},
    "shuffled": {"order": "shuffled", "shuffle_seed": 3},
    "one after another": {"concurrent_blocks": 1},
}
OF_SEVERAL_BLOCKS = [
    Case("order", shape, dtype, running=torch.float32, options={"activation": TANH})
    for shape, dtype in (
        ((150, 40, 1), torch.float32),
        ((70, 2, 49), torch.bfloat16),
        ((1, 2, 8300), torch.float16),
        ((5, 3, 121), torch.float64),
    )
]


@pytest.mark.parametrize("case", OF_SEVERAL_BLOCKS, ids=lambda case: case.id)
def test_same_bits_in_every_order_of_the_blocks(case, compiled):
    first = check(case, compiled, Device())
    for order in ORDERS.values():
        assert check(case, compiled, Device(**order)) == first


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shape", [(37, 24, 1), (3, 5, 80)])
def test_does_not_lean_on_exact_hardware_functions(shape, seed, compiled):
    case = Case("approximate", shape, torch.float32, options={"activation": TANH})
    check(case, compiled, Device(approximation_seed=seed))


@pytest.mark.parametrize("training", [True, False])
def test_running_statistics_may_have_strides(training, compiled):
    options = {"training": training}
    case = Case("strides", (9, 5, 1), torch.float32, running=torch.float32, options=options)
    spread = dataclasses.replace(case, running_step=3)
    assert check(spread, compiled, Device()) == check(case, compiled, Device())


@pytest.mark.parametrize("shape", HUGE_DOUBLES)
def test_doubles_whose_squares_overflow(shape, compiled):
    check_huge_doubles(shape, compiled, Device())


@pytest.mark.parametrize("shape", [(1, 3, 1), (1, 3, 80)])
def test_frozen_statistics_near_the_limit(shape, compiled):
    input = torch.tensor([3e38, -3e38, 1.0]).view(1, 3, 1).expand(shape).contiguous()
    mean, variance = torch.full((3,), -3e38), torch.tensor([1e38, 1e38, 1e38])
    norm = BatchNorm(Device(), compiled, input, None, None, Options(training=False))
    output = norm.forward(mean, variance)[0]
    expected = (input.double() - mean.double()[:, None]) / variance.double().sqrt()[:, None]
    torch.testing.assert_close(output.double(), expected)


@pytest.mark.parametrize("dtype", NUMBERS)
@pytest.mark.parametrize("shape", [(32, 64, 3136), (300, 64, 1), (4, 512, 196), (2, 5000, 49)])
def test_whole_blocks_finish_where_they_may_have_to_sum_a_channel_again(shape, dtype, compiled):
    # As many warps a channel as there can be, but no more in all than run at once.
    norm = BatchNorm(Unrun(), compiled, torch.ones(shape, dtype=dtype), None, None, Options())
    norm.forward()
    [finish] = [launch for launch in compiled.launched if "finish" in launch.kernel]
    assert finish.grid == (shape[1], 1, 1)
    assert finish.block == ((256, 1, 1) if shape[1] <= 512 else (32, 1, 1))


def failing(compiled, shape):
    """Forward of an input of this shape that is not there."""
    _, channels, inner = shape
    arguments = Arguments()
    arguments.shape = ChannelShape(*shape)
    arguments.input = ChannelView(256, channels * inner, inner, 1)
    arguments.training, arguments.eps = True, 1e-5
    running, nowhere = ctypes.byref(RunningStatistics()), ctypes.byref(ChannelView())
    pointers = (ctypes.byref(arguments), running, None, nowhere, None)
    call(compiled, Device(), "forward", NUMBERS[torch.float32], *pointers, check=False)


@pytest.mark.parametrize(("inner", "kernel"), [(1, "columns"), (100, "planes")])
def test_a_failed_launch_is_an_error_that_names_the_kernel(inner, kernel, compiled):
    with pytest.raises(RuntimeError, match=f"^CUDA kernel batch_norm_sum_{kernel}: an error"):
        failing(compiled, (3, 5, inner))


def test_too_many_channels_for_a_grid_are_an_error_that_names_the_kernel(compiled):
    with pytest.raises(RuntimeError, match=r"^batch_norm_sum_planes would need 4294967296 blocks"):
        failing(compiled, (1, 2**32, 100))
