// Sums that lose nothing worth having, and reductions over the threads of a warp and of a block.
// Each combines in an order that the number of threads fixes: the same bits on every run.
#pragma once

#include <cmath>

namespace makemore_ext::cuda {

inline constexpr int kWarpSize = 32;
inline constexpr unsigned kAllLanes = 0xffffffffu;

// A running sum: in double for double; for float a pair of floats, the second of which holds what
// rounding took from the first (Knuth's two-sum). Double itself would serve, but most devices
// compute in it at a small fraction of the speed of float. Sum<C>{} is zero.
template <typename C>
struct Sum;

template <>
struct Sum<double> {
  double value;

  __device__ void add(double x) { value += x; }
  __device__ void add(Sum other) { value += other.value; }
  __device__ void scale(double factor) { value *= factor; }
  __device__ double total() const { return value; }
  __device__ Sum from_lane(int mask) const { return {__shfl_xor_sync(kAllLanes, value, mask)}; }
};

template <>
struct Sum<float> {
  float high;
  float low;

  __device__ void add(float x) {
    const float sum = __fadd_rn(high, x);
    const float part = __fsub_rn(sum, high);
    low = __fadd_rn(low, __fadd_rn(__fsub_rn(high, __fsub_rn(sum, part)), __fsub_rn(x, part)));
    high = sum;
  }
  __device__ void add(Sum other) {
    add(other.high);
    low += other.low;
  }
  __device__ void scale(float factor) {
    high *= factor;
    low *= factor;
  }
  // An infinite sum has no rest.
  __device__ double total() const {
    return isfinite(high) ? static_cast<double>(high) + low : static_cast<double>(high);
  }
  __device__ Sum from_lane(int mask) const {
    return {__shfl_xor_sync(kAllLanes, high, mask), __shfl_xor_sync(kAllLanes, low, mask)};
  }
};

// Calls combine(distance) for each step of a reduction over the lanes of a warp, at the end of
// which all of them hold the result: combine takes in what the lane `distance` away (in its index's
// bits) holds.
template <typename Combine>
__device__ inline void for_each_warp_step(const Combine& combine) {
#pragma unroll
  for (int distance = kWarpSize / 2; distance > 0; distance /= 2) {
    combine(distance);
  }
}

template <typename C>
__device__ inline Sum<C> warp_sum(Sum<C> sum) {
  for_each_warp_step([&](int distance) { sum.add(sum.from_lane(distance)); });
  return sum;
}

__device__ inline double warp_sum(double value) {
  return warp_sum(Sum<double>{value}).value;
}

template <typename C>
__device__ inline C warp_max(C value) {
  for_each_warp_step(
      [&](int distance) { value = fmax(value, __shfl_xor_sync(kAllLanes, value, distance)); });
  return value;
}

// The sum over all threads of a block of whole warps, for its first warp; others get a part.
__device__ inline double block_sum(double value) {
  __shared__ double of_warp[kWarpSize];
  const int thread = static_cast<int>(threadIdx.y * blockDim.x + threadIdx.x);
  const int warps = static_cast<int>(blockDim.x * blockDim.y) / kWarpSize;
  value = warp_sum(value);
  if (thread % kWarpSize == 0) {
    of_warp[thread / kWarpSize] = value;
  }
  __syncthreads();
  return warp_sum(thread % kWarpSize < warps ? of_warp[thread % kWarpSize] : 0.0);
}

// The same for all threads; sums may follow each other without a barrier between them.
__device__ inline double block_sum_for_all(double value) {
  __shared__ double total;
  value = block_sum(value);
  if (threadIdx.y * blockDim.x + threadIdx.x == 0) {
    total = value;
  }
  __syncthreads();
  return total;
}

}  // namespace makemore_ext::cuda
