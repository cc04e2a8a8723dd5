// The log-sum-exp of every row, one block a row: an online maximum and sum over 16-byte loads, then
// warp shuffles, then shared memory.
#include <cuda_runtime.h>

#include <cstdint>

namespace {

constexpr int threads = 128;
constexpr unsigned all_lanes = 0xffffffffu;

struct Running {
  float maximum;
  float sum;  // of exp(x - maximum)
};

__device__ Running combine(Running a, Running b) {
  const float maximum = fmaxf(a.maximum, b.maximum);
  if (maximum == -INFINITY)
    return {maximum, 0.0f};
  return {maximum, a.sum * expf(a.maximum - maximum) + b.sum * expf(b.maximum - maximum)};
}

__device__ Running reduce_warp(Running mine) {
  for (int distance = 16; distance > 0; distance /= 2) {
    const Running other = {__shfl_xor_sync(all_lanes, mine.maximum, distance),
                           __shfl_xor_sync(all_lanes, mine.sum, distance)};
    mine = combine(mine, other);
  }
  return mine;
}

}  // namespace

extern "C" __global__ void __launch_bounds__(threads)
    log_sum_exp(const float* __restrict__ input, float* __restrict__ output, int64_t columns) {
  const float* row = input + blockIdx.x * columns;
  Running mine = {-INFINITY, 0.0f};

  // Up to three values before the first aligned one, whole vectors, and up to three after.
  const int64_t before = min(columns, int64_t(-(reinterpret_cast<uintptr_t>(row) / 4) & 3));
  const int64_t vectors = (columns - before) / 4;
  const int64_t after = before + vectors * 4;
  if (threadIdx.x < before)
    mine = {row[threadIdx.x], row[threadIdx.x] == -INFINITY ? 0.0f : 1.0f};
  const float4* aligned = reinterpret_cast<const float4*>(row + before);
  for (int64_t i = threadIdx.x; i < vectors; i += threads) {
    const float4 four = aligned[i];
    const float maximum = fmaxf(fmaxf(four.x, four.y), fmaxf(four.z, four.w));
    if (maximum == -INFINITY)
      continue;
    mine = combine(mine, {maximum, expf(four.x - maximum) + expf(four.y - maximum) +
                                       expf(four.z - maximum) + expf(four.w - maximum)});
  }
  if (after + threadIdx.x < columns) {
    const float value = row[after + threadIdx.x];
    mine = combine(mine, {value, value == -INFINITY ? 0.0f : 1.0f});
  }

  mine = reduce_warp(mine);
  __shared__ float maxima[threads / 32], sums[threads / 32];
  if (threadIdx.x % 32 == 0) {
    maxima[threadIdx.x / 32] = mine.maximum;
    sums[threadIdx.x / 32] = mine.sum;
  }
  __syncthreads();
  if (threadIdx.x >= 32)
    return;
  mine = {-INFINITY, 0.0f};
  if (threadIdx.x < threads / 32)
    mine = {maxima[threadIdx.x], sums[threadIdx.x]};
  mine = reduce_warp(mine);
  if (threadIdx.x == 0)
    output[blockIdx.x] = mine.maximum + logf(mine.sum);
}

extern "C" int launch_log_sum_exp(const float* input, float* output, int64_t rows, int64_t columns,
                                  void* stream) {
  if (rows == 0)
    return cudaSuccess;
  log_sum_exp<<<unsigned(rows), threads, 0, static_cast<cudaStream_t>(stream)>>>(input, output,
                                                                                 columns);
  return cudaGetLastError();
}
