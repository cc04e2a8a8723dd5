// What launchers share: grids, and errors that name the kernel.
#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <stdexcept>
#include <string>

#include "../arguments.h"

namespace makemore_ext::cuda {

MAKEMORE_EXT_HOST_DEVICE constexpr int64_t ceil_div(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// The index of the block, and of the thread among all threads of a one-dimensional grid: 64 bits.
__device__ inline int64_t block_index() {
  return blockIdx.x;
}
__device__ inline int64_t thread_index() {
  return static_cast<int64_t>(blockIdx.x) * blockDim.x + threadIdx.x;
}
__device__ inline int64_t thread_count() {
  return static_cast<int64_t>(gridDim.x) * blockDim.x;
}

// So many blocks, as a grid's first dimension.
inline unsigned grid_of(int64_t blocks, const char* kernel) {
  if (blocks > INT32_MAX) {
    throw std::runtime_error(std::string(kernel) + " would need " + std::to_string(blocks) +
                             " blocks, more than a grid has");
  }
  return static_cast<unsigned>(blocks);
}

// Throws what the launch of `kernel`, or an asynchronous operation before it, reported.
inline void check_launch(const char* kernel) {
  const cudaError_t error = cudaGetLastError();
  if (error != cudaSuccess) {
    throw std::runtime_error(std::string("CUDA kernel ") + kernel + ": " +
                             cudaGetErrorString(error));
  }
}

}  // namespace makemore_ext::cuda
