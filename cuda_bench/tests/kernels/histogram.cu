// How often each index occurs: counts in shared memory, added to the global ones at the end.
#include <cuda_runtime.h>

#include <cstdint>

extern "C" __global__ void histogram(const int64_t* __restrict__ indices, int64_t count,
                                     unsigned* __restrict__ counts, int bins) {
  extern __shared__ unsigned local[];
  for (int bin = threadIdx.x; bin < bins; bin += blockDim.x)
    local[bin] = 0;
  __syncthreads();
  const int64_t stride = int64_t(gridDim.x) * blockDim.x;
  for (int64_t i = int64_t(blockIdx.x) * blockDim.x + threadIdx.x; i < count; i += stride)
    atomicAdd(&local[indices[i]], 1u);
  __syncthreads();
  for (int bin = threadIdx.x; bin < bins; bin += blockDim.x)
    if (local[bin] > 0)
      atomicAdd(&counts[bin], local[bin]);
}

extern "C" int launch_histogram(const int64_t* indices, int64_t count, unsigned* counts, int bins,
                                void* stream) {
  const auto on = static_cast<cudaStream_t>(stream);
  cudaMemsetAsync(counts, 0, bins * sizeof(unsigned), on);
  histogram<<<3, 96, bins * sizeof(unsigned), on>>>(indices, count, counts, bins);
  return cudaGetLastError();
}
