// Cross entropy over logits whose classes are not side by side in memory, as where they are the
// channels of an image: a thread to each of 32 neighbouring rows, so that what a warp reads and
// writes at once is contiguous where the rows are. The twin of csrc/cpu/cross_entropy/columns.h.
#pragma once

#include <cstdint>
#include <type_traits>

#include "block.cuh"

namespace makemore_ext::cuda {

// The classes of one row from `first` on, `step` apart: what one thread takes of them.
template <typename T, bool kHasShares>
class Column {
 public:
  __device__ Column(const CrossEntropyTask<T>& task, int64_t row, int first, int step)
      : task_(task),
        first_(first),
        step_(step),
        logits_(task.arguments.logits.row(task.arguments.shape, row)),
        probabilities_(task.arguments.has_probabilities
                           ? task.arguments.probabilities.row(task.arguments.shape, row)
                           : nullptr),
        gradient_(task.gradient.row(task.arguments.shape, row)) {}

  __device__ RowSums<T, kHasShares> sum() const {
    auto sums = RowSums<T, kHasShares>::none();
    for_each([&](int64_t c, auto size) {
      constexpr int count = decltype(size)::value;
      sums.add(load<count>(logits_, task_.arguments.logits.class_stride, c), shares<count>(c));
    });
    return sums;
  }

  __device__ void write_gradient(const BlockFactors<T>& factors, int i) const {
    for_each([&](int64_t c, auto size) {
      constexpr int count = decltype(size)::value;
      const auto logits = load<count>(logits_, task_.arguments.logits.class_stride, c);
      const auto result =
          gradient_at<T, kHasShares>(factors, i, logits, shares<count>(c), c, step_);
#pragma unroll
      for (int k = 0; k < count; ++k) {
        gradient_[(c + k * step_) * task_.gradient.class_stride] = narrow<T>(result.lane[k]);
      }
    });
  }

 private:
  // Calls body(c, count) for several classes at once, so that their loads do not wait for each
  // other, and for what is left one by one.
  template <typename Body>
  __device__ void for_each(const Body& body) const {
    constexpr int together = kLanes<T>;
    const int64_t classes = task_.arguments.shape.classes;
    int64_t c = first_;
    for (; c + (together - 1) * step_ < classes; c += together * step_) {
      body(c, std::integral_constant<int, together>{});
    }
    for (; c < classes; c += step_) {
      body(c, std::integral_constant<int, 1>{});
    }
  }

  template <int count>
  __device__ Pack<T, count> load(const T* row, int64_t class_stride, int64_t c) const {
    Pack<T, count> result;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      result.lane[k] = widen(row[(c + k * step_) * class_stride]);
    }
    return result;
  }

  template <int count>
  __device__ Pack<T, count> shares(int64_t c) const {
    if constexpr (kHasShares) {
      Pack<T, count> probabilities{};
      if (task_.arguments.has_probabilities) {
        probabilities = load<count>(probabilities_, task_.arguments.probabilities.class_stride, c);
      }
      return shares_at(task_, probabilities, c, step_);
    } else {
      return {};
    }
  }

  const CrossEntropyTask<T>& task_;
  int64_t first_;
  int64_t step_;
  const T* logits_;
  const T* probabilities_;
  T* gradient_;
};

// Blocks of kBlockRows × warps threads: the classes of a row are shared by the threads of one x.
template <typename T, bool kHasShares>
__global__ void __launch_bounds__(kMostThreads, kBlocksAtOnce<T>)
    cross_entropy_columns(const __grid_constant__ CrossEntropyTask<T> task) {
  __shared__ RowSums<T, kHasShares> parts[kMostWarps * kBlockRows];
  __shared__ BlockFactors<T> factors;
  const int warps = static_cast<int>(blockDim.y);
  const int warp = static_cast<int>(threadIdx.y);
  const int i = static_cast<int>(threadIdx.x);
  const int64_t begin = block_index() * kBlockRows;
  const int64_t left = task.arguments.shape.rows - begin;
  const int count = static_cast<int>(left < kBlockRows ? left : kBlockRows);

  if (task.is_forward()) {
    if (i < count) {
      parts[warp * kBlockRows + i] = Column<T, kHasShares>(task, begin + i, warp, warps).sum();
    }
    __syncthreads();
  }
  if (warp == 0) {
    finish_rows(task, begin, count, parts, warps, kBlockRows, factors);
  }
  if (task.gradient.data != nullptr) {
    __syncthreads();
    if (i < count) {
      Column<T, kHasShares>(task, begin + i, warp, warps).write_gradient(factors, i);
    }
  }
}

}  // namespace makemore_ext::cuda
