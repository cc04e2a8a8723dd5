// Cross entropy over rows of logits that are contiguous in memory: read and written 16 bytes at a
// time, by a warp or by a whole block a row. The twin of csrc/cpu/cross_entropy/rows.h.
#pragma once

#include <cstdint>

#include "block.cuh"

namespace makemore_ext::cuda {

// The threads that share a row.
struct Team {
  int size;
  int index;  // of this thread among them
};

// The classes of one row.
template <typename T, bool kHasShares>
class Row {
 public:
  __device__ Row(const CrossEntropyTask<T>& task, int64_t row, Team team)
      : task_(task),
        team_(team),
        classes_(task.arguments.shape.classes),
        logits_(task.arguments.logits.row(task.arguments.shape, row)),
        probabilities_(task.arguments.has_probabilities
                           ? task.arguments.probabilities.row(task.arguments.shape, row)
                           : logits_),
        gradient_(task.gradient.row(task.arguments.shape, row)) {}

  // The sums of this thread's share.
  __device__ RowSums<T, kHasShares> sum() const {
    auto sums = RowSums<T, kHasShares>::none();
    const Split split =
        kHasShares ? Split::of(classes_, logits_, probabilities_) : Split::of(classes_, logits_);
    split.for_each<T>(team_.index, team_.size, [&](int64_t c, auto size) {
      constexpr int count = decltype(size)::value;
      sums.add(Pack<T, count>::load(logits_ + c), shares<count>(c));
    });
    return sums;
  }

  // Every thread reads what it writes before it does: the gradient may take the logits' memory.
  __device__ void write_gradient(const BlockFactors<T>& factors, int i) const {
    const T* gradient = gradient_;
    const Split split = is_short()   ? Split::one_by_one(classes_)
                        : kHasShares ? Split::of(classes_, logits_, gradient, probabilities_)
                                     : Split::of(classes_, logits_, gradient);
    split.for_each<T>(team_.index, team_.size, [&](int64_t c, auto size) {
      constexpr int count = decltype(size)::value;
      gradient_at<T, kHasShares>(factors, i, Pack<T, count>::load(logits_ + c), shares<count>(c), c,
                                 1)
          .store(gradient_ + c);
    });
  }

 private:
  // Whether a thread has one class at most: then all of them load at once, and a vector for some
  // of them would be a second step.
  __device__ bool is_short() const { return classes_ <= team_.size; }

  template <int count>
  __device__ Pack<T, count> shares(int64_t c) const {
    if constexpr (kHasShares) {
      Pack<T, count> probabilities{};
      if (task_.arguments.has_probabilities) {
        probabilities = Pack<T, count>::load(probabilities_ + c);
      }
      return shares_at(task_, probabilities, c, 1);
    } else {
      return {};
    }
  }

  const CrossEntropyTask<T>& task_;
  Team team_;
  int64_t classes_;
  const T* logits_;
  const T* probabilities_;  // the logits' address where there are none
  T* gradient_;
};

// rows_per_block: 1, and all threads share it, or more, and a warp takes one after another.
template <typename T, bool kHasShares>
__global__ void __launch_bounds__(kMostThreads, kBlocksAtOnce<T>)
    cross_entropy_rows(const __grid_constant__ CrossEntropyTask<T> task, int rows_per_block) {
  static_assert(kMostWarps <= kBlockRows);
  __shared__ RowSums<T, kHasShares> parts[kBlockRows];  // by warp, or by row
  __shared__ BlockFactors<T> factors;
  const int warps = static_cast<int>(blockDim.x) / kWarpSize;
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int64_t begin = block_index() * rows_per_block;
  const int64_t left = task.arguments.shape.rows - begin;
  const int count = static_cast<int>(left < rows_per_block ? left : rows_per_block);
  const bool together = rows_per_block == 1;
  const Team team = together ? Team{static_cast<int>(blockDim.x), static_cast<int>(threadIdx.x)}
                             : Team{kWarpSize, lane};
  const int first = together ? 0 : warp;

  if (task.is_forward()) {
    for (int i = first; i < count; i += warps) {
      RowSums<T, kHasShares> sums = Row<T, kHasShares>(task, begin + i, team).sum();
      sums.reduce_warp();
      if (lane == 0) {
        parts[together ? warp : i] = sums;
      }
    }
    __syncthreads();
  }
  if (warp == 0) {
    finish_rows(task, begin, count, parts, together ? warps : 1, 1, factors);
  }
  if (task.gradient.data != nullptr) {
    __syncthreads();
    for (int i = first; i < count; i += warps) {
      Row<T, kHasShares>(task, begin + i, team).write_gradient(factors, i);
    }
  }
}

}  // namespace makemore_ext::cuda
