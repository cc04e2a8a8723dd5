"""The launchers of cross entropy, executed by the bench, against the CPU's kernels and float64."""

import ctypes

import pytest
import torch
from cross_entropy_check import check, check_outside, check_scale
from cross_entropy_table import CASES, MEAN, OUTSIDE, SCALES, Case
from cuda_bench import Device
from launched import NUMBERS, call, launchers, needs_nvcc
from launched_cross_entropy import Arguments, CrossEntropy, RowShape, RowView

pytestmark = needs_nvcc


@pytest.fixture(scope="module")
def compiled():
    return launchers("cross_entropy")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_agrees_with_the_cpu_and_the_truth(case, compiled):
    check(case, compiled, Device())


def test_the_table_is_large_enough():
    assert len(CASES) >= 100


ORDERS = {
    "reversed": {"order": "reversed"},
    "shuffled": {"order": "shuffled", "shuffle_seed": 3},
    "one after another": {"concurrent_blocks": 1},
}
OF_SEVERAL_BLOCKS = [
    case
    for case in CASES
    if case.name == "everything" and case.dtype in (torch.bfloat16, torch.float32)
]


@pytest.mark.parametrize("case", OF_SEVERAL_BLOCKS, ids=lambda case: case.id)
def test_same_bits_in_every_order_of_the_blocks(case, compiled):
    first = check(case, compiled, Device())
    for order in ORDERS.values():
        assert check(case, compiled, Device(**order)) == first


def test_same_bits_of_the_sum_of_many_blocks_in_every_order(compiled):
    case = next(case for case in CASES if case.name == "many rows")
    results = []
    for order in ({}, ORDERS["shuffled"]):
        loss, _, total, _ = case.on(Device(**order)).forward(compiled)
        results.append((loss.item(), total.item()))
    assert results[0] == results[1]


@pytest.mark.parametrize("seed", [1, 2])
@pytest.mark.parametrize("shape", [(5, 33), (2, 1100), (3, 21, 5)])
def test_does_not_lean_on_exact_hardware_functions(shape, seed, compiled):
    case = Case("approximate", shape, torch.float32, options={"label_smoothing": 0.1})
    check(case, compiled, Device(approximation_seed=seed))


@pytest.mark.parametrize(
    ("case", "target"),
    OUTSIDE,
    ids=lambda value: value.id if isinstance(value, Case) else str(value),
)
def test_a_target_out_of_range_makes_its_row_nan_and_reads_nothing(case, target, compiled):
    check_outside(case, target, compiled, Device())


def test_a_target_out_of_range_makes_the_mean_nan_and_no_other_gradient(compiled):
    case = Case("outside", (5, 33), torch.float32)
    logits, index, _ = case.tensors()
    index[2] = 33
    made = CrossEntropy(Device(), logits, index)
    loss, _, total, gradient = made.forward(compiled, with_gradient=True)
    assert loss.isnan()
    assert total == 4
    assert gradient[2].isnan().all()
    assert gradient[[0, 1, 3, 4]].isfinite().all()


@pytest.mark.parametrize("scale", SCALES, ids=lambda scale: scale.id)
def test_scale(scale, compiled):
    check_scale(scale, compiled, Device())


def failing(compiled, rows):
    """Forward of so many rows of logits that are not there."""
    arguments = Arguments()
    arguments.shape = RowShape(rows, 1, 1, (rows,))
    arguments.has_probabilities, arguments.reduction = True, MEAN
    nowhere = ctypes.byref(RowView())
    pointers = (ctypes.byref(arguments), None, None, None, nowhere, None)
    call(compiled, Device(), "forward", NUMBERS[torch.float32], *pointers, check=False)


def test_a_failed_launch_is_an_error_that_names_the_kernel(compiled):
    with pytest.raises(RuntimeError, match=r"^CUDA kernel cross_entropy_weights: an error"):
        failing(compiled, 5)


def test_too_many_rows_for_a_grid_are_an_error_that_names_the_kernel(compiled):
    with pytest.raises(RuntimeError, match=r"^cross_entropy_weights would need 4294967296 blocks"):
        failing(compiled, 2**44)
