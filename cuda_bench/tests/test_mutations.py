"""Broken sample kernels and launchers, each of which the bench must notice."""

import pytest
from cuda_bench import Device, mutations, toolkit
from cuda_bench.launchers import Launchers
from cuda_bench.mutations import Mutation, Survived
from samples import CASES, KERNELS, needs_nvcc

pytestmark = needs_nvcc

MUTATIONS = [
    Mutation("barrier dropped", "softmax.cu", "  __syncthreads();\n", ""),
    Mutation("barrier for one warp", "softmax.cu",
             "  __syncthreads();\n  if (threadIdx.x >= 32)\n    return;",
             "  if (threadIdx.x >= 32)\n    return;\n  __syncthreads();"),
    Mutation("half a mask", "softmax.cu", "0xffffffffu", "0x0000ffffu"),
    Mutation("shuffle begins too near", "softmax.cu", "distance = 16", "distance = 8"),
    Mutation("vector not aligned", "softmax.cu", "(row + before)", "(row + before + 1)"),
    Mutation("head not skipped", "softmax.cu", "if (threadIdx.x < before)", "if (false)"),
    Mutation("tail too long", "softmax.cu", "if (after + threadIdx.x < columns)",
             "if (after + threadIdx.x <= columns)"),
    Mutation("tail forgotten", "softmax.cu", "if (after + threadIdx.x < columns)", "if (false)"),
    Mutation("half the stride", "softmax.cu", "i += threads", "i += threads / 2"),
    Mutation("no guard for -inf", "softmax.cu",
             "  if (maximum == -INFINITY)\n    return {maximum, 0.0f};\n", ""),
    Mutation("partial sums forgotten", "softmax.cu",
             "if (threadIdx.x < threads / 32)", "if (threadIdx.x < threads / 64)"),
    Mutation("stale maximum", "softmax.cu", "a.sum * expf(a.maximum - maximum)", "a.sum"),
    Mutation("grid too small", "softmax.cu", "<<<unsigned(rows), threads",
             "<<<unsigned(rows > 1 ? rows - 1 : 1), threads",
             host=True),
    Mutation("grid too large", "softmax.cu", "<<<unsigned(rows), threads",
             "<<<unsigned(rows + 1), threads",
             host=True),
    Mutation("block too small", "softmax.cu", "<<<unsigned(rows), threads",
             "<<<unsigned(rows), threads / 2",
             host=True),
    Mutation("launcher waits", "softmax.cu", "  return cudaGetLastError();",
             "  cudaDeviceSynchronize();\n  return cudaGetLastError();",
             host=True),
    Mutation("barrier in a branch", "column_sums.cu",
             "[(threadIdx.y + half) * width + threadIdx.x];\n    __syncthreads();",
             "[(threadIdx.y + half) * width + threadIdx.x], __syncthreads();"),
    Mutation("barrier dropped in a loop", "column_sums.cu",
             "[(threadIdx.y + half) * width + threadIdx.x];\n    __syncthreads();",
             "[(threadIdx.y + half) * width + threadIdx.x];"),
    Mutation("no column guard", "column_sums.cu", "  if (column < columns)\n", ""),
    Mutation("fence dropped", "column_sums.cu",
             "  __threadfence();\n  __syncthreads();\n  __shared__",
             "  __syncthreads();\n  __shared__"),
    Mutation("barrier before the count dropped", "column_sums.cu",
             "  __threadfence();\n  __syncthreads();\n  __shared__",
             "  __threadfence();\n  __shared__"),
    Mutation("last block but one", "column_sums.cu", "gridDim.y - 1;", "gridDim.y - 2;"),
    Mutation("plain count for an atomic", "column_sums.cu",
             "atomicAdd(&finished[blockIdx.x], 1u)", "finished[blockIdx.x]++"),
    Mutation("sum by float atomics", "column_sums.cu",
             "partial[blockIdx.y * columns + column] = sums[threadIdx.x];",
             "atomicAdd(&partial[column], sums[threadIdx.x]);"),
    Mutation("count not cleared", "column_sums.cu",
             "  cudaMemsetAsync(finished, 0, grid.x * sizeof(unsigned), on);\n", "",
             host=True),
    Mutation("too little shared memory", "column_sums.cu", "width * height * sizeof(float), on",
             "width * (height - 1) * sizeof(float), on",
             host=True),
    Mutation("tile overlaps", "column_sums.cu", "min(first + tile_rows, rows)",
             "min(first + tile_rows + 1, rows)"),
    Mutation("plain shared add", "histogram.cu", "atomicAdd(&local[indices[i]], 1u);",
             "local[indices[i]] += 1u;"),
    Mutation("plain global add", "histogram.cu", "atomicAdd(&counts[bin], local[bin]);",
             "counts[bin] += local[bin];"),
    Mutation("counts not cleared", "histogram.cu", "local[bin] = 0;", ";"),
    Mutation("barrier after clearing dropped", "histogram.cu",
             "local[bin] = 0;\n  __syncthreads();", "local[bin] = 0;"),
    Mutation("blocks overlap", "histogram.cu", "int64_t(gridDim.x) * blockDim.x",
             "int64_t(blockDim.x)"),
    Mutation("rest done twice", "scale.cu", "if (rest < count)", "if (index < count)"),
    Mutation("index in 32-bit float", "scale.cu", "float(value) * factor", "float(value)"),
    Mutation("swapped arguments", "scale.cu",
             "static_cast<const T*>(input), static_cast<T*>(output)",
             "static_cast<const T*>(output), static_cast<T*>(const_cast<void*>(input))",
             host=True),
    Mutation("count in bytes", "scale.cu", "static_cast<T*>(output), count, factor);",
             "static_cast<T*>(output), count * int64_t(sizeof(T)), factor);",
             host=True),
]  # fmt: skip

NOT_A_BUG = Mutation("a comment", "scale.cu", "// y = round", "// z = round")


def check(mutation):
    """The cases of the file, in two orders: with all blocks together, and one after another."""

    def run(sources):
        source = sources / mutation.file
        if mutation.host:
            broken = Launchers(source)
        else:
            broken = Launchers(KERNELS / mutation.file, kernels=toolkit.compile_ptx(source))
        for case in CASES[mutation.file].values():
            case(broken, Device())
            case(broken, Device(order="reversed", concurrent_blocks=1))

    return run


@pytest.mark.parametrize("mutation", MUTATIONS, ids=lambda mutation: mutation.name)
def test_caught(mutation):
    assert mutations.caught(mutation, KERNELS, check(mutation))


def test_what_changes_nothing_survives():
    with pytest.raises(Survived, match="a comment"):
        mutations.caught(NOT_A_BUG, KERNELS, check(NOT_A_BUG))


@pytest.mark.parametrize("find", ["no such text", "threadIdx.x"])
def test_a_mutation_must_be_found_once(find):
    with pytest.raises(ValueError, match=r"times in softmax\.cu"):
        mutations.apply(Mutation("any", "softmax.cu", find, ""), KERNELS)
