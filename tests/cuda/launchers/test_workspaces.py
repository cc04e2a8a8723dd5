"""The workspaces hold all that launchers lead kernels to, for shapes up to and beyond every cap."""

import ctypes
import functools

import numpy as np
import pytest
from launched import NUMBERS, launchers, needs_nvcc, workspaces_lack
from launched_cross_entropy import RowShape

compiled = functools.cache(launchers)
pytestmark = [needs_nvcc, pytest.mark.parametrize("dtype", NUMBERS)]


def around(*powers):
    """Powers of two and their neighbours."""
    return {2**power + step for power in powers for step in (-1, 0, 1)}


def product(*sizes):
    """Every combination of sizes, a row each."""
    grids = np.meshgrid(*[np.array(sorted(size), np.int64) for size in sizes], indexing="ij")
    return np.stack([grid.reshape(-1) for grid in grids], axis=1)


def sufficient(name, shapes, dtype):
    """That of no shape, a row each, the workspace is too small."""
    lacking = workspaces_lack(compiled(name), dtype, shapes)
    short = [(*map(int, shapes[i]), int(lacking[i])) for i in np.flatnonzero(lacking > 0)]
    assert not short, f"{len(short)} of {len(shapes)} too small, with the bytes: {short[:5]}"


FEW_ROWS = {*range(1, 600), *around(*range(7, 22)), 16384 * 3, 16384 * 5 + 1, 1_000_000}
CHANNELS = {*range(1, 161), *around(8, 9, 10, 11, 12, 13)}


def test_of_batch_norm(dtype):
    sufficient("batch_norm", product(FEW_ROWS, CHANNELS, {1}), dtype)


def test_of_batch_norm_over_images(dtype):
    planes = {2, 3, 7, 16, 33, 49, 63, 64, 65, 100, 196, 3136, *around(13), 50176, 2**20}
    shapes = product({1, 2, 3, 31, 32, 33, 1000, 4096}, {1, 2, 3, 7, 64, 65, 256, 1000}, planes)
    sufficient("batch_norm", shapes, dtype)


@pytest.mark.slow
def test_of_batch_norm_for_every_number_of_rows(dtype):
    for channels in range(1, 129):
        sufficient("batch_norm", product(range(1, 70_001), {channels}, {1}), dtype)


def test_of_cross_entropy(dtype):
    sizes = product({*range(1, 300), *around(*range(9, 24))}, {1, 2, 1023, 1024, 1025, *around(13)})
    # RowShape in integers of 64 bits: rows, classes, the number of dimensions, and their sizes.
    shapes = np.zeros((len(sizes), ctypes.sizeof(RowShape) // 8), np.int64)
    shapes[:, :2], shapes[:, 2], shapes[:, 3] = sizes, 1, sizes[:, 0]
    sufficient("cross_entropy", shapes, dtype)


def test_of_the_embedding(dtype):
    sizes = product({*range(1, 300), *around(*range(9, 21))}, {*range(1, 40), *around(6, 8, 12)})
    sufficient("embedding", sizes, dtype)
