"""What the tests of the bench share: the sample kernels, and when they can be compiled."""

from pathlib import Path

import pytest
from cuda_bench import toolkit
from cuda_bench.ptx import Module

KERNELS = Path(__file__).parent / "kernels"

needs_nvcc = pytest.mark.skipif(toolkit.missing() is not None, reason=str(toolkit.missing()))


def kernels(name: str, architecture: str = "8.0") -> Module:
    """The kernels of one of the sample files."""
    return toolkit.load(KERNELS / name, architecture)
