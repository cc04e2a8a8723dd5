"""Broken kernels and launchers of csrc/cuda, each of which the tests' tables must notice."""

from functools import partial

import batch_norm_check
import batch_norm_table
import cross_entropy_check
import cross_entropy_table
import embedding_table
import numpy as np
import pytest
import torch
from cuda_bench import Device, mutations
from cuda_bench.mutations import Mutation
from launched import CSRC, launchers, needs_nvcc, workspaces_lack

pytestmark = needs_nvcc

SINGLE = (torch.float32,)

CROSS_ENTROPY = [
    # What the kernels share.
    Mutation("steps begin too near", "cuda/reduce.cuh", "distance = kWarpSize / 2",
             "distance = kWarpSize / 4"),
    Mutation("barrier of the block's sum dropped", "cuda/reduce.cuh",
             "  __syncthreads();\n  return warp_sum", "  return warp_sum"),
    Mutation("sum keeps no rest", "cuda/reduce.cuh",
             "static_cast<double>(high) + low :", "static_cast<double>(high) :"),
    Mutation("vectors begin one late", "cuda/vec.cuh", "body(head + i * lanes,",
             "body(head + i * lanes + 1,"),
    Mutation("head done twice", "cuda/vec.cuh", "i < head ? i : i + vectors * lanes",
             "i + vectors * lanes"),
    Mutation("one element too many", "cuda/vec.cuh", "i < size - vectors * lanes;",
             "i <= size - vectors * lanes;"),
    Mutation("other rows' alignment forgotten", "cuda/vec.cuh",
             "if (((lane_of(others) != begin) || ...))", "if (begin < 0)",
             host=True),
    Mutation("too far to alignment", "cuda/vec.cuh", "(kLanes<T> - begin) % kLanes<T>", "begin",
             host=True),
    # A block of rows.
    Mutation("stale sum", "cuda/cross_entropy/sums.cuh", "exp.scale(::exp(step));", ""),
    Mutation("stale shares", "cuda/cross_entropy/sums.cuh", "if (share.total() != 0)",
             "if (false)"),
    Mutation("no row of -inf", "cuda/cross_entropy/block.cuh",
             "no_maximum ? -INFINITY : static_cast<double>(sums.max)",
             "no_maximum ? static_cast<double>(sums.max) : static_cast<double>(sums.max)"),
    Mutation("negative targets let through", "cuda/cross_entropy/block.cuh",
             "static_cast<uint64_t>(target) >= static_cast<uint64_t>(arguments.shape.classes)",
             "target >= arguments.shape.classes"),
    Mutation("ignored rows lose", "cuda/cross_entropy/block.cuh",
             "loss = ignored_ ? 0.0 :", "loss = false ? 0.0 :"),
    Mutation("nothing special at the target", "cuda/cross_entropy/block.cuh",
             "if (c + k * stride == factors.target[i])", "if (c + k * stride < 0)"),
    Mutation("a row too many", "cuda/cross_entropy/block.cuh",
             "if (i < count) {\n    RowState", "if (i <= count) {\n    RowState"),
    Mutation("sum by float atomics", "cuda/cross_entropy/block.cuh",
             "task.block_loss[block_index()] = loss;", "atomicAdd(task.block_loss, loss);"),
    # A warp or a block a row.
    Mutation("barrier before the gradient dropped", "cuda/cross_entropy/rows.cuh",
             "    __syncthreads();\n    for (int i = first", "    for (int i = first"),
    Mutation("barrier in a branch", "cuda/cross_entropy/rows.cuh",
             "    __syncthreads();\n  }\n  if (warp == 0) {",
             "  }\n  if (warp == 0) {\n    __syncthreads();"),
    Mutation("other warps forgotten", "cuda/cross_entropy/rows.cuh", "together ? warps : 1", "1"),
    Mutation("too little shared memory", "cuda/cross_entropy/rows.cuh",
             "parts[kBlockRows];", "parts[2];"),
    # A thread a row.
    Mutation("no guard of the rows", "cuda/cross_entropy/columns.cuh",
             "    if (i < count) {\n      parts[", "    {\n      parts["),
    Mutation("barrier of the columns dropped", "cuda/cross_entropy/columns.cuh",
             "    __syncthreads();\n  }\n  if (warp == 0)", "  }\n  if (warp == 0)"),
    Mutation("classes beyond the last", "cuda/cross_entropy/columns.cuh",
             "c + (together - 1) * step_ < classes", "c < classes"),
    # Weights, sums, and the launchers.
    Mutation("rows beyond the last", "cuda/cross_entropy/cross_entropy.cuh",
             "begin + kRowsPerWeightBlock < rows ? begin + kRowsPerWeightBlock : rows",
             "begin + kRowsPerWeightBlock"),
    Mutation("alignment of what is scaled forgotten", "cuda/cross_entropy/cross_entropy.cuh",
             "Split::of(count, gradient)", "Split::after<T>(0, count)"),
    Mutation("infinity for ignored rows", "cuda/cross_entropy/cross_entropy.cuh",
             "if (target[row] != ignore_index) {", "{"),
    Mutation("strides of what is scaled forgotten", "cuda/cross_entropy/cross_entropy.cuh",
             "dx[c * rows.class_stride] = narrow", "dx[c] = narrow"),
    Mutation("a mean of no weight", "cuda/cross_entropy/block.cuh",
             "total_weight == 0 ? static_cast<double>(NAN) : total_weight", "total_weight"),
    Mutation("partial sums added twice", "cuda/cross_entropy/cross_entropy.cuh",
             "i < count; i += kSumThreads", "i < count; i += kSumThreads / 2"),
    Mutation("grid too small", "cuda/cross_entropy/cross_entropy.cu",
             "<<<grid_of(blocks, kName), threads,",
             "<<<grid_of(std::max<int64_t>(1, blocks - 1), kName), threads,"),
    Mutation("another stream", "cuda/cross_entropy/cross_entropy.cu",
             "threads, 0, stream>>>", "threads>>>"),
    Mutation("strides of the classes forgotten", "cuda/cross_entropy/cross_entropy.cu",
             "arguments.shape.classes <= 1 ||", "arguments.shape.classes >= 1 ||"),
    Mutation("launcher waits", "cuda/launch.cuh", "const cudaError_t error = cudaGetLastError();",
             "cudaDeviceSynchronize();\n  const cudaError_t error = cudaGetLastError();",
             host=True),
]  # fmt: skip

EMBEDDING = [
    Mutation("looks before the first", "cuda/embedding/embedding.cuh", "position > 0 && ", ""),
    Mutation("parts overlap", "cuda/embedding/embedding.cuh",
             "(2 * chunk + of_next)", "(chunk + of_next)"),
    Mutation("table not cleared", "cuda/embedding/embedding.cu",
             "cudaMemsetAsync(grad_weight.data, 0, bytes, stream);", ""),
    Mutation("rows beyond the table", "cuda/embedding/embedding.cuh",
             "static_cast<uint64_t>(index) < static_cast<uint64_t>(grad_weight.rows)",
             "index >= 0"),
    Mutation("features beyond the last", "cuda/embedding/embedding.cuh",
             "if (feature < task.grad_output.columns)", "if (feature >= 0)"),
    Mutation("strides of the features forgotten", "cuda/embedding/embedding.cu",
             "matrix.column_stride == 1 &&", "matrix.column_stride > 0 &&"),
    Mutation("alignment forgotten", "cuda/embedding/embedding.cu",
             "reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 &&", "matrix.data != nullptr &&"),
    Mutation("parts not added up", "cuda/embedding/embedding.cuh",
             "    sums.add_part(task.part(chunk, false) + feature);\n", ""),
]  # fmt: skip

BATCH_NORM = [
    # Columns.
    Mutation("columns beyond the last", "cuda/batch_norm/columns.cuh",
             "} else if (task.unit < grid.units()) {\n    sum_unit", "} else {\n    sum_unit"),
    Mutation("rows beyond the last", "cuda/batch_norm/columns.cuh",
             "left < grid.cut.band_rows ? left : grid.cut.band_rows", "grid.cut.band_rows"),
    Mutation("a run beyond the last row", "cuda/batch_norm/columns.cuh",
             "row + run - task.step < task.end", "row < task.end"),
    Mutation("barrier between the sums dropped", "cuda/batch_norm/columns.cuh",
             "  __syncthreads();\n  const double second", "  const double second"),
    Mutation("other columns added", "cuda/batch_norm/columns.cuh",
             "int distance = width;", "int distance = 1;"),
    Mutation("rows that are not aligned alike", "cuda/batch_norm/batch_norm.cu",
             "shape.outer > 1 && pass.any_stride(is_unaligned)",
             "false && pass.any_stride(is_unaligned)"),
    # Planes.
    Mutation("chunk beyond the plane", "cuda/batch_norm/parts.cuh",
             "inner - begin < chunk_size ? inner - begin : chunk_size", "chunk_size"),
    Mutation("barrier between the planes' sums dropped", "cuda/batch_norm/planes.cuh",
             "  __syncthreads();\n", ""),
    Mutation("alignment of the result forgotten", "cuda/batch_norm/passes.cuh",
             "Split::of(size, x, needs_result() ? y : x)", "Split::of(size, x)", host=True),
    # What becomes of the sums.
    Mutation("sums about zero", "cuda/batch_norm/passes.cuh",
             "(sum - least / kSamples - most / kSamples) * kShare", "0 * (sum + least + most)"),
    Mutation("what lies between the parts forgotten", "cuda/batch_norm/passes.cuh",
             "squares[part] + count * distance * distance", "squares[part] + 0 * count * distance"),
    Mutation("total read before it is there", "cuda/reduce.cuh",
             "  __syncthreads();\n  return total;", "  return total;"),
    Mutation("low part of the mean forgotten", "cuda/batch_norm/passes.cuh",
             "bias - (mean - static_cast<double>(centre)) * scale", "bias"),
    Mutation("gradient sums about the centre alone", "cuda/batch_norm/passes.cuh",
             "(products - rest * sum) * invstd", "products * invstd"),
    Mutation("relu lets 0 through", "cuda/batch_norm/elements.cuh", "y.lane[k] <= C(0)",
             "y.lane[k] < C(0)"),
    Mutation("running variance not of n - 1", "cuda/batch_norm/passes.cuh",
             "/ (count - 1)", "/ count"),
    Mutation("squares beyond a float", "cuda/batch_norm/passes.cuh", "if (isfinite(all_squares))",
             "if (true)"),
    Mutation("products beyond a float", "cuda/batch_norm/passes.cuh",
             "if (!isfinite(products) && isfinite(invstd))", "if (false)"),
    Mutation("differences beyond a float", "cuda/batch_norm/parts.cuh", "kDown = 0x1p-8f",
             "kDown = 1.0f"),
    # The launchers.
    Mutation("workspace too small", "cuda/batch_norm/parts.cuh", "2 * parts + kPassParameters",
             "2 * parts + 1",
             host=True),
    Mutation("workspace for aligned columns alone", "cuda/batch_norm/batch_norm.cu",
             "head < kLanes<T>; ++head", "head < 1; ++head", host=True),
    Mutation("sums read that nothing wrote", "cuda/batch_norm/passes.cuh",
             "if (needs_sums()) {\n      const", "if (true) {\n      const"),
    Mutation("another stream for the second kernel", "cuda/batch_norm/batch_norm.cu",
             "threads, 0, stream>>>(pass)", "threads>>>(pass)"),
    Mutation("too few threads for the parts", "cuda/batch_norm/parts.cuh", "i += blockDim.x",
             "i += kBatchNormThreads"),
]  # fmt: skip

FEW = (
    "plain",
    "unlike alignment",
    "everything",
    "confident",
    "minus infinity",
    "all ignored",
    "no weight",
    "transposed",
)
LARGE = ((40, 150), (2, 1100), (4, 1030))
FEW_OF_BATCH_NORM = (
    "columns",
    "many rows",
    "small planes",
    "many small planes",
    "planes",
    "large planes",
    "relu",
    "evaluation",
    "running float32",
    "no gradient of parameters",
    "no gradient",
    "many channels",
    "padded rows",
    "unlike alignment",
    "far from zero",
    "beyond squares",
    "far apart",
)


def small(cases):
    """The cases that are quick, of one dtype."""
    for case in cases:
        if case.dtype == torch.float32 and case.name in FEW and case.shape[:2] not in LARGE:
            yield case


CASES = list(small(cross_entropy_table.CASES))
MANY_ROWS = next(case for case in cross_entropy_table.CASES if case.name == "many rows")
OUTSIDE = cross_entropy_table.Case("outside", (5, 33), torch.float32)
FACTORS = [
    scale
    for scale in cross_entropy_table.SCALES
    if scale.dtype == torch.float32 and scale.count in (210, 1003)
]
IN_TURN = {"order": "reversed", "concurrent_blocks": 1}


def broken_launchers(name, mutation, sources):
    if mutation.host or mutation.file.endswith(".cu"):
        return launchers(name, SINGLE, sources)
    return launchers(name, SINGLE, device_csrc=sources)


def check_cross_entropy(mutation, sources):
    broken = broken_launchers("cross_entropy", mutation, sources)
    for case in CASES:
        cross_entropy_check.check(case, broken, Device())
    cross_entropy_check.check_outside(OUTSIDE, -1, broken, Device())
    cross_entropy_check.check(CASES[0], broken, Device(**IN_TURN))
    cross_entropy_check.check(MANY_ROWS, broken, Device())
    for scale in FACTORS:
        cross_entropy_check.check_scale(scale, broken, Device())


def check_embedding(mutation, sources):
    broken = broken_launchers("embedding", mutation, sources)
    for case in embedding_table.CASES:
        if case.dtype == torch.float32:
            embedding_table.check(case, broken, Device())
    outside = embedding_table.Case(5, 2, 16, torch.float32, only=7)
    embedding_table.check(outside, broken, Device())


def quick_of_batch_norm():
    """One dtype, and of each kind of case and layout the first."""
    seen = set()
    for case in batch_norm_table.CASES:
        kind = (case.name, case.shape[2] == 1)
        if case.dtype == torch.float32 and kind not in seen and case.name in FEW_OF_BATCH_NORM:
            seen.add(kind)
            yield case


def check_batch_norm(mutation, sources):
    broken = broken_launchers("batch_norm", mutation, sources)
    for case in quick_of_batch_norm():
        batch_norm_check.check(case, broken, Device())
    assert (workspaces_lack(broken, torch.float32, np.array([[65_537, 50, 1]])) <= 0).all()


def half_of_them_slow(listed):
    """Each takes three seconds: every other one is for `pytest -m slow`."""
    marks = ((), pytest.mark.slow)
    return [pytest.param(m, id=m.name, marks=marks[i % 2]) for i, m in enumerate(listed)]


@pytest.mark.parametrize("mutation", half_of_them_slow(CROSS_ENTROPY))
def test_caught_by_the_table_of_cross_entropy(mutation):
    assert mutations.caught(mutation, CSRC, partial(check_cross_entropy, mutation))


@pytest.mark.parametrize("mutation", half_of_them_slow(EMBEDDING))
def test_caught_by_the_table_of_the_embedding(mutation):
    assert mutations.caught(mutation, CSRC, partial(check_embedding, mutation))


@pytest.mark.parametrize("mutation", half_of_them_slow(BATCH_NORM))
def test_caught_by_the_table_of_batch_norm(mutation):
    assert mutations.caught(mutation, CSRC, partial(check_batch_norm, mutation))
