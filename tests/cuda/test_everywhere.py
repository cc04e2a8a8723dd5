"""The tables' calls as the PTX of other architectures has them than 8.0's, by which the operations'
own tests go."""

import functools

import pytest
from calls import CALLS
from cuda_bench import Device, toolkit
from launched import launchers, needs_nvcc

pytestmark = [needs_nvcc, pytest.mark.long]

compiled = functools.cache(launchers)
USUAL = ("7.5", "9.0")
architectures = pytest.mark.parametrize(
    "architecture",
    [
        pytest.param(name, marks=() if name in USUAL else pytest.mark.slow)
        for name in toolkit.ARCHITECTURES
        if name != "8.0"
    ],
)
how_large = pytest.mark.parametrize(
    "is_large", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["small", "large"]
)


@how_large
@architectures
@pytest.mark.parametrize("operation", ["batch_norm", "cross_entropy", "embedding"])
def test_agrees_with_the_truth(operation, architecture, is_large):
    there = compiled(operation, architecture=architecture)
    for other in ("8.0", "12.0"):
        runs = compiled(operation, architecture=other).module.functions
        if other != architecture and there.module.functions == runs:
            return  # the same program
    failed = {}
    for call in CALLS:
        if call.operation == operation and call.is_large == is_large:
            try:
                call.check(there, Device())
            except (AssertionError, RuntimeError) as error:
                failed[call.name] = str(error)
    assert not failed
