"""The launchers of batch norm, executed by the bench, against float64."""

import pytest
import torch
from batch_norm_table import CASES, check
from cuda_bench import Device
from launched import launchers
from support_cuda import needs_nvcc

pytestmark = needs_nvcc


@pytest.fixture(scope="module")
def compiled():
    return launchers("batch_norm")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.id)
def test_agrees_with_the_truth(case, compiled):
    check(case, compiled, Device())


def test_the_table_is_large_enough():
    assert len(CASES) >= 120
