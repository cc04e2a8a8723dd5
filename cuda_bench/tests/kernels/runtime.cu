// Launchers that call the CUDA runtime in every way that the bench knows.
#include <cuda_runtime.h>

#include <cstdint>

#define LAUNCHER extern "C" int

__global__ void arguments(double* y, int a, int64_t b, float c, double d, bool e, const void* f) {
  y[0] = a;
  y[1] = b;
  y[2] = c;
  y[3] = d;
  y[4] = e;
  y[5] = f != nullptr;
}
LAUNCHER launch_arguments(double* y, int a, int64_t b, float c, double d, bool e, const void* f) {
  arguments<<<1, 1>>>(y, a, b, c, d, e, f);
  return cudaGetLastError();
}

LAUNCHER fill_and_copy(void* x, void* y, int value, int64_t size, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  cudaMemsetAsync(x, value, size, on);
  cudaMemcpyAsync(y, x, size, cudaMemcpyDeviceToDevice, on);
  return cudaGetLastError();
}

__global__ void shared(int* y, int bytes) {
  extern __shared__ char held[];
  held[bytes - 1] = 1;
  *y = bytes - 1 + held[bytes - 1];
}
LAUNCHER launch_shared(int* y, int bytes, bool opt_in, void* stream) {
  if (opt_in) {
    const auto error =
        cudaFuncSetAttribute(shared, cudaFuncAttributeMaxDynamicSharedMemorySize, bytes);
    if (error != cudaSuccess) {
      cudaGetLastError();
      return error;
    }
  }
  shared<<<1, 1, bytes, static_cast<cudaStream_t>(stream)>>>(y, bytes);
  return cudaGetLastError();
}

LAUNCHER device_properties(int* y) {
  int device = -1;
  cudaGetDevice(&device);
  cudaDeviceGetAttribute(&y[0], cudaDevAttrComputeCapabilityMajor, device);
  cudaDeviceGetAttribute(&y[1], cudaDevAttrComputeCapabilityMinor, device);
  cudaDeviceGetAttribute(&y[2], cudaDevAttrMultiProcessorCount, device);
  cudaDeviceGetAttribute(&y[3], cudaDevAttrWarpSize, device);
  int blocks = 0;
  cudaOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, shared, 128, 0);
  return blocks == 8 ? cudaGetLastError() : cudaErrorUnknown;
}

LAUNCHER forbidden(int which) {
  void* memory = nullptr;
  if (which == 0)
    return cudaDeviceSynchronize();
  if (which == 1)
    return cudaStreamSynchronize(nullptr);
  if (which == 2)
    return cudaMalloc(&memory, 4);
  return cudaMemset(memory, 0, 4);
}

LAUNCHER launch_nothing() {
  arguments<<<0, 1>>>(nullptr, 0, 0, 0, 0, false, nullptr);
  return cudaGetLastError();
}
LAUNCHER last_error() {
  return cudaGetLastError();
}

__global__ void add_one(int* y) {
  y[blockIdx.x] += 1;
}
__global__ void twice(int* y) {
  y[blockIdx.y] *= 2;
}
LAUNCHER launch_twice(int* y, int count, void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  add_one<<<count, 1, 0, on>>>(y);
  cudaLaunchConfig_t configuration = {};
  configuration.gridDim = dim3(1, count);
  configuration.blockDim = 1;
  configuration.stream = on;
  cudaLaunchKernelEx(&configuration, twice, y);
  return cudaGetLastError();
}
