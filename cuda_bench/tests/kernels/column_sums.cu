// The sum of every column in two stages without a float atomic: tiles of rows leave partial sums,
// and the last block to finish a group of columns adds them in index order.
#include <cuda_runtime.h>

#include <cstdint>

namespace {
constexpr int width = 32;  // columns of a tile, one a lane
constexpr int height = 8;  // threads that share a column
constexpr int64_t tile_rows = 64;
}  // namespace

extern "C" __global__ void __launch_bounds__(width* height)
    column_sums(const float* __restrict__ input, float* partial, unsigned* finished,
                float* __restrict__ output, int64_t rows, int64_t columns) {
  extern __shared__ float sums[];  // [height, width]
  const int64_t column = int64_t(blockIdx.x) * width + threadIdx.x;
  const int64_t first = int64_t(blockIdx.y) * tile_rows;
  const int64_t last = min(first + tile_rows, rows);

  float sum = 0.0f;
  if (column < columns)
    for (int64_t row = first + threadIdx.y; row < last; row += height)
      sum += input[row * columns + column];
  sums[threadIdx.y * width + threadIdx.x] = sum;
  __syncthreads();
  for (int half = height / 2; half > 0; half /= 2) {
    if (threadIdx.y < half)
      sums[threadIdx.y * width + threadIdx.x] += sums[(threadIdx.y + half) * width + threadIdx.x];
    __syncthreads();
  }

  if (threadIdx.y == 0 && column < columns)
    partial[blockIdx.y * columns + column] = sums[threadIdx.x];
  __threadfence();
  __syncthreads();
  __shared__ bool is_last;
  if (threadIdx.x == 0 && threadIdx.y == 0)
    is_last = atomicAdd(&finished[blockIdx.x], 1u) == gridDim.y - 1;
  __syncthreads();
  if (!is_last || threadIdx.y > 0 || column >= columns)
    return;
  __threadfence();
  float total = 0.0f;
  for (unsigned tile = 0; tile < gridDim.y; ++tile)
    total += partial[tile * columns + column];
  output[column] = total;
}

extern "C" int launch_column_sums(const float* input, float* partial, unsigned* finished,
                                  float* output, int64_t rows, int64_t columns, void* stream) {
  const dim3 grid(unsigned((columns + width - 1) / width),
                  unsigned((rows + tile_rows - 1) / tile_rows));
  const auto on = static_cast<cudaStream_t>(stream);
  cudaMemsetAsync(finished, 0, grid.x * sizeof(unsigned), on);
  column_sums<<<grid, dim3(width, height), width * height * sizeof(float), on>>>(
      input, partial, finished, output, rows, columns);
  return cudaGetLastError();
}
