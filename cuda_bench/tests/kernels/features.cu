// One feature of the language a kernel: what nvcc makes of it must run, and give what C++ says.
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_pipeline.h>
#include <cuda_runtime.h>

#include <cstdint>
#include <cstdio>

#define KERNEL extern "C" __global__ void
constexpr unsigned everyone = 0xffffffffu;

__device__ unsigned thread_number() {
  return blockIdx.x * blockDim.x + threadIdx.x;
}

// Warps.
KERNEL shuffles(const int* x, int* y) {
  const int value = x[threadIdx.x];
  int* mine = y + threadIdx.x * 6;
  mine[0] = __shfl_sync(everyone, value, 5);
  mine[1] = __shfl_sync(everyone, value, 3, 8);
  mine[2] = __shfl_up_sync(everyone, value, 3);
  mine[3] = __shfl_down_sync(everyone, value, 2, 16);
  mine[4] = __shfl_xor_sync(everyone, value, 9);
  mine[5] = int(__shfl_xor_sync(everyone, double(value), 1, 4));
}
KERNEL votes(const int* x, unsigned* y) {
  const int value = x[threadIdx.x];
  unsigned* mine = y + threadIdx.x * 6;
  mine[0] = __ballot_sync(everyone, value > 0);
  mine[1] = __any_sync(everyone, value > 90);
  mine[2] = __all_sync(everyone, value > -90);
  mine[3] = __match_any_sync(everyone, value & 3);
  int same;
  mine[4] = __match_all_sync(everyone, threadIdx.x / 32, &same);
  mine[5] = value > 0 ? __activemask() : 0;
}
KERNEL warp_reductions(const int* x, int* y) {
#if __CUDA_ARCH__ >= 800
  const int value = x[threadIdx.x];
  int* mine = y + threadIdx.x * 4;
  mine[0] = __reduce_add_sync(everyone, value);
  mine[1] = __reduce_max_sync(everyone, value);
  mine[2] = int(__reduce_min_sync(everyone, unsigned(value)));
  mine[3] = int(__reduce_xor_sync(everyone, unsigned(value)));
#endif
}
KERNEL barrier_reductions(const int* x, int* y) {
  int* mine = y + threadIdx.x * 3;
  mine[0] = __syncthreads_count(x[threadIdx.x] > 0);
  mine[1] = __syncthreads_and(x[threadIdx.x] > 0);
  mine[2] = __syncthreads_or(x[threadIdx.x] > 0);
}
KERNEL lane_masks(unsigned* y) {
  unsigned lane, below, warp;
  asm("mov.u32 %0, %%laneid;" : "=r"(lane));
  asm("mov.u32 %0, %%lanemask_lt;" : "=r"(below));
  asm("mov.u32 %0, %%warpid;" : "=r"(warp));
  y[threadIdx.x * 3] = lane;
  y[threadIdx.x * 3 + 1] = below;
  y[threadIdx.x * 3 + 2] = warp;
}

// Atomics: each thread of the grid applies each.
KERNEL atomics(const int* x, int* i, unsigned* u, float* f, double* d, unsigned long long* l) {
  const int value = x[thread_number()];
  atomicAdd(&i[0], value);
  atomicMin(&i[1], value);
  atomicMax(&i[2], value);
  atomicSub(&i[3], value);
  atomicAnd(&u[0], unsigned(value));
  atomicOr(&u[1], unsigned(value));
  atomicXor(&u[2], unsigned(value));
  atomicInc(&u[3], 10u);
  atomicDec(&u[4], 10u);
  atomicAdd(&f[0], float(value));
  atomicAdd(&d[0], double(value));
  atomicAdd(&l[0], static_cast<unsigned long long>(value));
  atomicMax(&l[1], static_cast<unsigned long long>(uint32_t(value)));
}
KERNEL tickets(unsigned* next, unsigned* y) {
  y[thread_number()] = atomicAdd(next, 1u);
}
KERNEL compare_and_swap(const float* x, unsigned* y) {  // the largest, by its bits
  unsigned old = 0;
  const float value = x[thread_number()];
  while (__uint_as_float(old) < value) {
    const unsigned found = atomicCAS(y, old, __float_as_uint(value));
    if (found == old)
      break;
    old = found;
  }
}
KERNEL narrow_atomics(const float* x, __half2* h, __nv_bfloat162* b) {
  atomicAdd(h, __float2half2_rn(x[thread_number()]));
#if __CUDA_ARCH__ >= 900
  atomicAdd(b, __float2bfloat162_rn(x[thread_number()]));
#endif
}

// Memory.
struct Options {
  float scale;
  int shift;
  double offset;
};
KERNEL structure(const float* x, float* y, Options options) {
  y[threadIdx.x] = x[(threadIdx.x + options.shift) % blockDim.x] * options.scale + options.offset;
}
struct Table {
  int64_t steps[5];
  int count;
};
KERNEL parameter_by_address(const float* x, float* y, const __grid_constant__ Table table) {
  const int64_t* steps = table.steps;
  y[threadIdx.x] = x[threadIdx.x] * steps[threadIdx.x % table.count];
}
__constant__ float coefficients[4] = {1.0f, 2.0f, 0.5f, -1.0f};
__device__ int calls = 7;
KERNEL module_variables(const float* x, float* y) {
  y[threadIdx.x] = x[threadIdx.x] * coefficients[threadIdx.x % 4];
  atomicAdd(&calls, 1);
}
__device__ __noinline__ float sum_of(const float* values, int count) {  // of either memory
  float sum = 0.0f;
  for (int i = 0; i < count; ++i)
    sum += values[i];
  return sum;
}
KERNEL generic_pointers(const float* x, float* y) {
  __shared__ float s[64];
  s[threadIdx.x] = 2.0f * x[threadIdx.x];
  __syncthreads();
  y[threadIdx.x] = sum_of(threadIdx.x % 2 ? s : x, threadIdx.x + 1);
}
struct Wide {
  double a[5];
};
KERNEL wide_elements(const Wide* x, Wide* y, const char4* c, short2* s) {
  Wide value = x[threadIdx.x];
  value.a[3] += 1.0;
  y[threadIdx.x] = value;
  const char4 four = c[threadIdx.x];
  s[threadIdx.x] = make_short2(four.x + four.y, four.z * four.w);
}
KERNEL copies_ahead(const float4* x, float* y, bool wait) {
  __shared__ float4 s[2][64];
  for (int stage = 0; stage < 2; ++stage) {
    __pipeline_memcpy_async(&s[stage][threadIdx.x], &x[stage * 64 + threadIdx.x], 16);
    __pipeline_commit();
  }
  float sum = 0.0f;
  for (int stage = 0; stage < 2; ++stage) {
    if (wait) {
      if (stage == 0)
        __pipeline_wait_prior(1);
      else
        __pipeline_wait_prior(0);
    }
    __syncthreads();
    const float4 v = s[stage][63 - threadIdx.x];
    sum += v.x + v.y + v.z + v.w;
  }
  y[threadIdx.x] = sum;
}

// Control flow and calls.
KERNEL branches(const int* x, int* y) {
  int value = x[threadIdx.x];
  switch (value % 7) {
    case 0:
      value = value * 3 + 1;
      break;
    case 1:
      value = value / 2;
      break;
    case 2:
      value -= 100;
      break;
    case 3:
      value ^= 0x55;
      break;
    case 4:
      value = __shfl_sync(__activemask(), value, 0) * 0 + 44;
      break;
    case 5:
      while (value > 10)
        value -= 10;
      break;
    default:
      value = -value;
  }
  for (int i = 0; i < 20; ++i) {
    if (value % 2 == 0)
      continue;
    if (value > 1000)
      break;
    value += i;
    if (value == 50 && i == 3) {
      y[threadIdx.x] = -1;
      return;
    }
  }
  y[threadIdx.x] = value;
}
__device__ __noinline__ int collatz(int value, int& largest) {
  int steps = 0;
  while (value != 1) {
    value = value % 2 ? 3 * value + 1 : value / 2;
    largest = max(largest, value);
    ++steps;
    if (steps > 40)
      return -1;
  }
  return steps;
}
KERNEL calls_a_function(const int* x, int* y) {
  int largest = 0;
  const int steps = collatz(x[threadIdx.x], largest);
  y[threadIdx.x * 2] = steps;
  y[threadIdx.x * 2 + 1] = largest;
}
KERNEL prints(const int* x) {
  if (threadIdx.x % 32 == 0)
    printf("thread %u of %d: %.2f %s\n", threadIdx.x, x[0], 0.25, "done");
}
KERNEL coordinates(unsigned* y) {
  const unsigned block = (blockIdx.z * gridDim.y + blockIdx.y) * gridDim.x + blockIdx.x;
  const unsigned thread = (threadIdx.z * blockDim.y + threadIdx.y) * blockDim.x + threadIdx.x;
  const unsigned i = block * (blockDim.x * blockDim.y * blockDim.z) + thread;
  y[i] = blockIdx.x + 10 * blockIdx.y + 100 * blockIdx.z + 1000 * threadIdx.x +
         10000 * threadIdx.y + 100000 * threadIdx.z;
}

// Arithmetic.
KERNEL long_division(const int64_t* a, const int64_t* b, int64_t* y) {
  const unsigned i = threadIdx.x;
  y[i * 4] = a[i] / b[i];
  y[i * 4 + 1] = a[i] % b[i];
  y[i * 4 + 2] = int64_t(uint64_t(a[i]) / uint64_t(b[i]));
  y[i * 4 + 3] = __mul64hi(a[i], b[i]);
}
template <typename T>
__device__ void functions_of(T x, T* y) {
  y[0] = exp(x);
  y[1] = log(x);
  y[2] = tanh(x);
  y[3] = sqrt(x);
  y[4] = rsqrt(x);
  y[5] = expm1(x);
  y[6] = log1p(x);
  y[7] = pow(x, T(1.7));
  y[8] = T(1) / x;
  y[9] = fma(x, x, -x);
  y[10] = floor(x) + ceil(x) + rint(x) + trunc(x);
  y[11] = erf(x);
}
KERNEL functions_float(const float* x, float* y) {
  functions_of(x[threadIdx.x], y + 12 * threadIdx.x);
}
KERNEL functions_double(const double* x, double* y) {
  functions_of(x[threadIdx.x], y + 12 * threadIdx.x);
}
KERNEL functions_fast(const float* x, float* y) {
  float* mine = y + 4 * threadIdx.x;
  mine[0] = __expf(x[threadIdx.x]);
  mine[1] = __logf(x[threadIdx.x]);
  mine[2] = __fdividef(1.0f, x[threadIdx.x]);
  mine[3] = __powf(x[threadIdx.x], 1.5f);
}
__device__ __half2 swapped(__half2 v) {
  return __floats2half2_rn(__half2float(v.y), __low2float(v) * 3.0f);
}
__device__ __nv_bfloat162 swapped(__nv_bfloat162 v) {
  return __floats2bfloat162_rn(__bfloat162float(v.y), __low2float(v) * 3.0f);
}
template <typename T2>
__device__ void halves(const T2* x, T2* y) {
  const T2 v = x[threadIdx.x];
  T2* mine = y + 6 * threadIdx.x;
  mine[0] = __hadd2(v, v);
  mine[1] = __hmul2(v, v);
  mine[2] = __hfma2(v, v, v);
  mine[3] = __hmax2(v, __hneg2(v));
  mine[4] = __hsub2(v, __hmul2(v, v));
  mine[5] = swapped(v);
}
KERNEL halves_half(const __half2* x, __half2* y) {
  halves(x, y);
}
KERNEL halves_bfloat16(const __nv_bfloat162* x, __nv_bfloat162* y) {
#if __CUDA_ARCH__ >= 800
  halves(x, y);
#endif
}
