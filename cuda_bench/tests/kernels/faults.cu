// One error a kernel; where the name says so, its correct twin.
#include <cuda_fp16.h>
#include <cuda_runtime.h>

#include <cassert>

#define KERNEL extern "C" __global__ void

// Bounds, alignment, initialisation. All run with one block of 64 threads.
KERNEL store_in_bounds(float* x, int n) {
  if (threadIdx.x < n)
    x[threadIdx.x] = 1.0f;
}
KERNEL store_out_of_bounds(float* x, int n) {
  x[threadIdx.x] = 1.0f;
}
KERNEL load_before_the_start(const float* x, float* y) {
  y[threadIdx.x] = x[int(threadIdx.x) - 1];
}
__device__ float sum(float4 v) {
  return v.x + v.y + v.z + v.w;
}
KERNEL load_across_the_end(const float4* x, float* y) {
  y[threadIdx.x] = sum(x[threadIdx.x / 4]);
}
KERNEL load_misaligned(const float* x, float* y) {
  y[threadIdx.x] = sum(reinterpret_cast<const float4*>(x + 1)[threadIdx.x / 8]);
}
KERNEL copy(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x];
}
KERNEL shared_uninitialised(float* y) {
  __shared__ float s[64];
  if (threadIdx.x > 0)
    s[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
KERNEL shared_out_of_bounds(float* y) {
  extern __shared__ float s[];
  s[threadIdx.x] = 1.0f;
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}

// Races in shared memory.
KERNEL shared_reversed(float* y, bool with_barrier) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  if (with_barrier)
    __syncthreads();
  y[threadIdx.x] = s[63 - threadIdx.x];
}
KERNEL shared_reused(float* y, bool with_barrier) {
  __shared__ float s[64];
  s[threadIdx.x] = 1.0f;
  __syncthreads();
  const float other = s[63 - threadIdx.x];
  if (with_barrier)
    __syncthreads();
  s[threadIdx.x] = other + 1.0f;
  y[threadIdx.x] = s[threadIdx.x];
}
KERNEL shared_within_a_warp(float* y, bool with_barrier) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  if (with_barrier)
    __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}
KERNEL shared_across_warps(float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = threadIdx.x;
  __syncwarp();
  y[threadIdx.x] = s[threadIdx.x ^ 32];
}
KERNEL shared_same_place(float* y, bool same_value) {
  __shared__ float s;
  s = same_value ? 1.0f : threadIdx.x;
  __syncthreads();
  y[threadIdx.x] = s;
}
KERNEL shared_halves(__half* y) {
  __shared__ __half s[64];
  s[threadIdx.x] = __half(float(threadIdx.x));
  __syncthreads();
  y[threadIdx.x] = s[threadIdx.x ^ 1];
}
KERNEL shared_plain_count(int* y) {
  __shared__ int count;
  if (threadIdx.x == 0)
    count = 0;
  __syncthreads();
  count += 1;
  __syncthreads();
  y[threadIdx.x] = count;
}
KERNEL shared_atomic_count(int* y, bool with_barrier) {
  __shared__ int count;
  if (threadIdx.x == 0)
    count = 0;
  __syncthreads();
  atomicAdd(&count, 1);
  if (with_barrier)
    __syncthreads();
  y[threadIdx.x] = count;
}

// Races in global memory. x has an element for every thread of the grid.
KERNEL neighbour_in_block(float* x, float* y, bool with_barrier) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  x[i] = i;
  if (with_barrier)
    __syncthreads();
  y[i] = x[i ^ 1];
}
KERNEL neighbour_block(float* x, float* y) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  x[i] = i;
  __syncthreads();
  y[i] = x[(i + blockDim.x) % (gridDim.x * blockDim.x)];
}
KERNEL shift_in_place(float* x) {
  const int i = blockIdx.x * blockDim.x + threadIdx.x;
  const float next = x[(i + 1) % (gridDim.x * blockDim.x)];
  __syncthreads();
  x[i] = next;
}
KERNEL every_block_writes(float* y, bool same_value) {
  y[threadIdx.x] = same_value ? 1.0f : blockIdx.x;
}
KERNEL global_count(int* y, bool atomic) {
  if (atomic)
    atomicAdd(y, 1);
  else
    y[0] += 1;
}
KERNEL count_then_read(int* y, int* z) {
  atomicAdd(y, 1);
  z[blockIdx.x * blockDim.x + threadIdx.x] = *y;
}
KERNEL read_only_cache(float* x, float* y) {
  x[threadIdx.x] = 1.0f;
  y[threadIdx.x] = __ldg(&x[threadIdx.x]);
}
// The last block adds what all blocks left; `fence` and `last` are what it takes.
KERNEL last_block(float* partial, unsigned* finished, float* y, bool fence, unsigned last) {
  __shared__ bool is_last;
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = blockIdx.x;
    if (fence)
      __threadfence();
    is_last = atomicAdd(finished, 1u) == last;
  }
  __syncthreads();
  if (!is_last)
    return;
  float sum = 0.0f;
  for (unsigned i = 0; i < gridDim.x; ++i)
    sum += partial[i];
  if (threadIdx.x == 0)
    *y = sum;
}
KERNEL last_block_fence_before_barrier(float* partial, unsigned* finished, float* y) {
  __shared__ bool is_last;
  partial[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
  __threadfence();
  __syncthreads();
  if (threadIdx.x == 0)
    is_last = atomicAdd(finished, 1u) == gridDim.x - 1;
  __syncthreads();
  if (!is_last || threadIdx.x > 0)
    return;
  float sum = 0.0f;
  for (unsigned i = 0; i < gridDim.x * blockDim.x; ++i)
    sum += partial[i];
  *y = sum;
  *finished = 0;
}

// Barriers and warps.
KERNEL barrier_in_a_branch(float* y) {
  if (threadIdx.x < 32)
    __syncthreads();
  y[threadIdx.x] = 1.0f;
}
KERNEL barrier_after_a_return(float* y, unsigned n) {
  if (threadIdx.x >= n)
    return;
  __syncthreads();
  y[threadIdx.x] = 1.0f;
}
KERNEL barrier_after_a_loop_with_a_way_out(const int* x, float* y, int stop) {
  float sum = 0.0f;
  for (int i = 0; i <= threadIdx.x % 5; ++i) {
    if (x[i] == stop) {
      y[threadIdx.x] = -1.0f;
      return;
    }
    sum += __shfl_xor_sync(__activemask(), 1.0f, 0);
  }
  __syncthreads();
  y[threadIdx.x] = sum;
}
KERNEL shuffle_after_a_loop_with_a_way_out(const int* x, float* y, int stop) {
  float sum = threadIdx.x;
  for (int i = 0; i <= threadIdx.x % 5; ++i) {
    if (x[i] == stop) {
      y[threadIdx.x] = -1.0f;
      return;
    }
    sum += x[i];
  }
  y[threadIdx.x] = __shfl_xor_sync(0xffffffffu, sum, 1);
}
KERNEL barriers_by_block(float* y) {
  for (unsigned i = 0; i < blockIdx.x; ++i)
    __syncthreads();
  y[blockIdx.x * blockDim.x + threadIdx.x] = 1.0f;
}
KERNEL shuffle_in_a_branch(float* y, unsigned mask) {
  float value = threadIdx.x;
  if (threadIdx.x % 32 < 16)
    value = __shfl_xor_sync(mask, value, 1);
  y[threadIdx.x] = value;
}
KERNEL shuffle_from_outside(float* y) {
  float value = threadIdx.x;
  if (threadIdx.x % 32 < 16)
    value = __shfl_xor_sync(0xffffu, value, 16);
  y[threadIdx.x] = value;
}
KERNEL mask_without_itself(float* y) {
  y[threadIdx.x] = __shfl_xor_sync(0x7fffffffu, float(threadIdx.x), 1);
}
KERNEL warp_barrier_in_a_branch(float* y) {
  if (threadIdx.x % 2)
    __syncwarp();
  y[threadIdx.x] = 1.0f;
}

// The rest.
KERNEL gives_up(float* y) {
  if (threadIdx.x == 3)
    __trap();
  y[threadIdx.x] = 1.0f;
}
KERNEL asserts(const int* x, float* y) {
  assert(x[threadIdx.x] >= 0);
  y[threadIdx.x] = 1.0f;
}
KERNEL never_ends(volatile float* y) {
  while (y[threadIdx.x] >= 0.0f)
    y[threadIdx.x] = 1.0f;
}
KERNEL local_memory(const int* x, float* y) {
  float table[64];
  for (int i = 0; i < 64; ++i)
    table[x[i]] = i;
  y[threadIdx.x] = table[threadIdx.x];
}
