// Cross entropy on CUDA devices: the formulas, and what is kept from forward to backward, are those
// of csrc/cpu/cross_entropy/cross_entropy.cpp, names of makemore_ext.reference included: logits or
// x is its logits, dx its dlogits.
//
// A block takes some rows from their logits to their gradient: it reads the logits once, a second
// time from the cache where it forms the gradient along with the loss, and writes the gradient. Its
// losses become one partial sum; one last block adds those up, in an order that depends on the
// shape alone, so that the result does not depend on the order in which blocks run.
#pragma once

#include <cstdint>

#include "block.cuh"
#include "columns.cuh"
#include "rows.cuh"

namespace makemore_ext::cuda {

inline constexpr int kSumThreads = 256;
inline constexpr int64_t kRowsPerWeightBlock = 4096;

// partial[block] = the weights of the targets of kRowsPerWeightBlock rows; without targets each row
// has weight 1.
template <typename C>
__global__ void __launch_bounds__(kSumThreads)
    cross_entropy_weights(Indices target, int64_t rows, int64_t classes, int64_t ignore_index,
                          const C* weight, double* partial) {
  const bool has_target = target.wide != nullptr || target.narrow != nullptr;
  const int64_t begin = block_index() * kRowsPerWeightBlock;
  const int64_t end = begin + kRowsPerWeightBlock < rows ? begin + kRowsPerWeightBlock : rows;
  double sum = 0;
  for (int64_t row = begin + threadIdx.x; row < end; row += kSumThreads) {
    const int64_t t = has_target ? target[row] : 0;
    const bool inside = static_cast<uint64_t>(t) < static_cast<uint64_t>(classes);
    if (inside && !(has_target && t == ignore_index)) {
      sum += has_target && weight != nullptr ? static_cast<double>(weight[t]) : 1.0;
    }
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    partial[blockIdx.x] = sum;
  }
}

// result = the sum of `partial` [count], for the mean that by *total_weight, which is null for
// others. One block.
template <typename Result>
__global__ void __launch_bounds__(kSumThreads)
    cross_entropy_sum(const double* partial, int64_t count, const double* total_weight,
                      Result* result) {
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += kSumThreads) {
    sum += partial[i];
  }
  sum = block_sum(sum);
  if (threadIdx.x == 0) {
    *result =
        static_cast<Result>(total_weight == nullptr ? sum : sum / mean_divisor(*total_weight));
  }
}

// gradient *= *factor, all of it side by side in memory: for one that forward formed, before the
// upstream gradient was known. A factor of 1, as loss.backward() has it, costs one look. Of one
// that is not finite ignored rows get nothing, as it would make NaN of their 0.
template <typename T>
__global__ void __launch_bounds__(kSumThreads)
    cross_entropy_scale_kernel(const __grid_constant__ RowShape shape,
                               const __grid_constant__ RowView<T> rows, Indices target,
                               int64_t ignore_index, const Compute<T>* factor) {
  const Compute<T> by = *factor;
  if (by == Compute<T>(1)) {
    return;
  }
  const bool has_target = target.wide != nullptr || target.narrow != nullptr;
  if (has_target && !isfinite(by)) {
    for (int64_t row = thread_index(); row < shape.rows; row += thread_count()) {
      if (target[row] != ignore_index) {
        T* const dx = rows.row(shape, row);
        MAKEMORE_EXT_NO_UNROLL
        for (int64_t c = 0; c < shape.classes; ++c) {
          dx[c * rows.class_stride] = narrow<T>(widen(dx[c * rows.class_stride]) * by);
        }
      }
    }
    return;
  }
  T* const gradient = rows.data;
  const int64_t count = shape.rows * shape.classes;
  const auto index = static_cast<int>(thread_index());
  const auto threads = static_cast<int>(thread_count());
  Split::of(count, gradient).template for_each<T>(index, threads, [&](int64_t i, auto size) {
    auto values = Pack<T, decltype(size)::value>::load(gradient + i);
#pragma unroll
    for (int k = 0; k < decltype(size)::value; ++k) {
      values.lane[k] *= by;
    }
    values.store(gradient + i);
  });
}

}  // namespace makemore_ext::cuda
