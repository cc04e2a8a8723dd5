"""The tables' calls as PTX of other architectures has them than of 8.0, by which the operations'
own tests go."""

import functools

import pytest
from cuda_bench import Device
from launched import launchers
from operation_calls import CALLS
from support_cuda import needs_nvcc

pytestmark = [needs_nvcc, pytest.mark.long]

compiled = functools.cache(launchers)
how_large = pytest.mark.parametrize(
    "is_large", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "large"]
)


@how_large
@pytest.mark.parametrize("architecture", ["7.5", "9.0", "12.0"])
@pytest.mark.parametrize("operation", ["batch_norm", "cross_entropy", "embedding"])
def test_agrees_with_the_truth(operation, architecture, is_large):
    there = compiled(operation, architecture=architecture)
    if there.module.functions == compiled(operation).module.functions:
        return  # the same program: it has run
    failed = {}
    for call in CALLS:
        if call.operation == operation and call.is_large == is_large:
            try:
                call.check(there, Device())
            except (AssertionError, RuntimeError) as error:
                failed[call.name] = str(error)
    assert not failed
