// What cross entropy does with a block of rows, whatever their layout: from the sums over classes
// to the losses, and from the upstream gradient to the factors of the gradient. One lane of the
// block's first warp does it for one row, in double. The twin of csrc/cpu/cross_entropy/block.h;
// the formulas stand in csrc/cpu/cross_entropy/cross_entropy.cpp.
#pragma once

#include <cmath>
#include <cstdint>

#include "../../arguments.h"
#include "../launch.cuh"
#include "../reduce.cuh"
#include "../vec.cuh"
#include "sums.cuh"

namespace makemore_ext::cuda {

inline constexpr int kBlockRows = kWarpSize;  // at most
inline constexpr int kMostThreads = 512;
inline constexpr int kMostWarps = kMostThreads / kWarpSize;

// Blocks of kMostThreads that a multiprocessor has registers for: 64 a thread. Those of double need
// more, and have less to gain.
template <typename T>
inline constexpr int kBlocksAtOnce = sizeof(Compute<T>) == sizeof(float) ? 2 : 1;

// For the few values a row has. Not inlined, they are once in the code rather than once a kernel.
static __device__ __noinline__ double exp_once(double x) {
  return ::exp(x);
}
static __device__ __noinline__ double log_once(double x) {
  return ::log(x);
}

// What the mean divides by: see csrc/cpu/cross_entropy/block.h.
__device__ inline double mean_divisor(double total_weight) {
  return total_weight == 0 ? static_cast<double>(NAN) : total_weight;
}

// What one launch is to do.
template <typename T>
struct CrossEntropyTask {
  CrossEntropyArguments<T> arguments;
  double on_target;     // 1 - label_smoothing
  double on_class;      // label_smoothing / classes
  RowView<T> gradient;  // or without data
  const double* total_weight;

  // Forward, each or null: the losses [rows], the sums of the blocks' losses, what to keep.
  Compute<T>* loss;
  double* block_loss;
  double* statistics;

  // Backward, which these make it.
  const double* known_statistics;
  Vector<const Compute<T>> grad_output;
  Vector<const Compute<T>> grad_lse;

  __device__ bool is_forward() const { return known_statistics == nullptr; }
};

// The shares of `count` classes from c on, `stride` apart: w_c for smoothed indices, v_c for
// probabilities q, which are null for indices.
template <typename T, int count>
__device__ inline Pack<T, count> shares_at(const CrossEntropyTask<T>& task,
                                           const Pack<T, count>& probabilities, int64_t c,
                                           int64_t stride) {
  using C = Compute<T>;
  const C* weight = task.arguments.weight;
  Pack<T, count> share;
#pragma unroll
  for (int i = 0; i < count; ++i) {
    share.lane[i] = C(1);
    if (task.arguments.has_probabilities) {
      share.lane[i] =
          probabilities.lane[i] * static_cast<C>(task.on_target) + static_cast<C>(task.on_class);
    }
    if (weight != nullptr) {
      share.lane[i] *= weight[c + i * stride];
    }
  }
  return share;
}

// What the gradient of each row of a block is made of:
// gradient_c = scale exp(x_c - max) - offset share_c, but at_target at the target.
template <typename T>
struct BlockFactors {
  Compute<T> max[kBlockRows];
  Compute<T> scale[kBlockRows];
  Compute<T> offset[kBlockRows];
  Compute<T> at_target[kBlockRows];
  int64_t target[kBlockRows];  // -1 without
};

// The gradient of `count` classes from c on, `stride` apart.
template <typename T, bool kHasShares, int count>
__device__ inline Pack<T, count> gradient_at(const BlockFactors<T>& factors, int i,
                                             const Pack<T, count>& logits,
                                             const Pack<T, count>& shares, int64_t c,
                                             int64_t stride) {
  Pack<T, count> result;
#pragma unroll
  for (int k = 0; k < count; ++k) {
    result.lane[k] = ::exp(logits.lane[k] - factors.max[i]) * factors.scale[i];
    if constexpr (kHasShares) {
      result.lane[k] -= shares.lane[k] * factors.offset[i];
    }
    if (c + k * stride == factors.target[i]) {
      result.lane[k] = factors.at_target[i];
    }
  }
  return result;
}

// One row, by the names of csrc/cpu/cross_entropy/block.h.
template <typename T, bool kHasShares>
class RowState {
 public:
  __device__ RowState(const CrossEntropyTask<T>& task, int64_t row) : task_(task), row_(row) {}

  // From the sums of `count` parts of the row, `stride` apart.
  __device__ void combine(const RowSums<T, kHasShares>* parts, int count, int stride) {
    RowSums<T, kHasShares> sums = parts[0];
    for (int part = 1; part < count; ++part) {
      sums.add(parts[part * stride]);
    }
    sum_exp_ = sums.exp.total();
    const bool no_maximum = sum_exp_ == 0 && sums.max == lowest<Compute<T>>();
    max_ = no_maximum ? -INFINITY : static_cast<double>(sums.max);
    if constexpr (kHasShares) {
      shares_ = sums.share.total();
      share_logit_ = sums.share_logit.total();
    }
  }

  __device__ void load_statistics() {
    const int64_t rows = task_.arguments.shape.rows;
    max_ = task_.known_statistics[row_];
    sum_exp_ = task_.known_statistics[rows + row_];
    mass_ = task_.known_statistics[2 * rows + row_];
  }

  // Reads the target and its logit; the maximum is known.
  __device__ void load_target() {
    const CrossEntropyArguments<T>& arguments = task_.arguments;
    if (kHasShares && arguments.has_probabilities) {
      return;
    }
    const int64_t target = arguments.target[row_];
    if (target == arguments.ignore_index) {
      ignored_ = true;
    } else if (static_cast<uint64_t>(target) >= static_cast<uint64_t>(arguments.shape.classes)) {
      outside_ = true;
    } else {
      target_ = target;
      target_weight_ = arguments.weight == nullptr ? 1.0 : arguments.weight[target];
      const T* logits = arguments.logits.row(arguments.shape, row_);
      target_logit_ =
          static_cast<double>(widen(logits[target * arguments.logits.class_stride])) - max_;
    }
  }

  // Works out and writes the loss and what forward keeps.
  __device__ double loss() {
    const CrossEntropyArguments<T>& arguments = task_.arguments;
    const double log_sum = log_once(sum_exp_);
    double toward_logits = 0;  // sum_c v_c (x_c - max)
    if (arguments.has_probabilities) {
      mass_ = shares_;
      toward_logits = share_logit_;
    } else {
      const double weight = task_.on_target * target_weight_;
      mass_ = weight;
      toward_logits = weight * target_logit_;
      if constexpr (kHasShares) {
        mass_ += task_.on_class * shares_;
        toward_logits += task_.on_class * share_logit_;
      }
    }
    double loss = mass_ * log_sum - toward_logits;
    if (arguments.lse_square_scale != 0) {
      const double lse = max_ + log_sum;
      loss += arguments.lse_square_scale * lse * lse;
    }
    loss = ignored_ ? 0.0 : outside_ ? static_cast<double>(NAN) : loss;
    if (task_.loss != nullptr) {
      task_.loss[row_] = static_cast<Compute<T>>(loss);
    }
    if (task_.statistics != nullptr) {
      const int64_t rows = arguments.shape.rows;
      task_.statistics[row_] = max_;
      task_.statistics[rows + row_] = sum_exp_;
      task_.statistics[2 * rows + row_] = mass_;
    }
    return loss;
  }

  // From the upstream gradient to the factors of this one.
  __device__ void write_factors(BlockFactors<T>& factors, int i) const {
    using C = Compute<T>;
    const CrossEntropyArguments<T>& arguments = task_.arguments;
    const double divisor =
        arguments.reduction == Reduction::mean ? mean_divisor(*task_.total_weight) : 1.0;
    double grad_loss = 1;
    double grad_lse = 0;
    if (!task_.is_forward()) {
      grad_loss = task_.grad_output[row_];
      grad_lse = task_.grad_lse.data == nullptr ? 0.0 : task_.grad_lse[row_];
    }
    // An ignored row has factor 0, which leaves 0, and NaN where softmax itself is NaN.
    const double upstream = ignored_   ? 0.0
                            : outside_ ? static_cast<double>(NAN)
                                       : grad_loss / divisor;
    double mass = mass_;
    if (arguments.lse_square_scale != 0) {
      mass += 2 * arguments.lse_square_scale * (max_ + log_once(sum_exp_));
    }
    const double on_softmax = (upstream == 0 ? 0.0 : upstream * mass) + grad_lse;
    factors.max[i] = static_cast<C>(max_);
    factors.scale[i] = static_cast<C>(on_softmax / sum_exp_);
    factors.offset[i] =
        static_cast<C>(arguments.has_probabilities ? upstream : upstream * task_.on_class);
    factors.target[i] = target_;
    if (target_ >= 0) {
      // p - 1 cancels where p is close to 1.
      const double share = (task_.on_target + task_.on_class) * target_weight_;
      factors.at_target[i] =
          static_cast<C>(on_softmax * (exp_once(target_logit_) / sum_exp_) - upstream * share);
    }
  }

 private:
  const CrossEntropyTask<T>& task_;
  int64_t row_;
  double max_ = 0;
  double sum_exp_ = 0;
  double shares_ = 0;
  double share_logit_ = 0;
  double mass_ = 0;
  int64_t target_ = -1;  // without an index in [0, classes)
  double target_weight_ = 0;
  double target_logit_ = 0;
  bool ignored_ = false;
  bool outside_ = false;
};

// The first warp of a block, after every part of its rows was summed: losses, and factors of the
// gradient. Row i of the block is at parts[i * row_stride + part * part_stride].
template <typename T, bool kHasShares>
__device__ inline void finish_rows(const CrossEntropyTask<T>& task, int64_t begin, int count,
                                   const RowSums<T, kHasShares>* parts, int part_count,
                                   int part_stride, BlockFactors<T>& factors) {
  const int i = static_cast<int>(threadIdx.x);
  double loss = 0;
  if (i < count) {
    RowState<T, kHasShares> state(task, begin + i);
    if (task.is_forward()) {
      state.combine(parts + i, part_count, part_stride);
      state.load_target();
      loss = state.loss();
    } else {
      state.load_statistics();
      state.load_target();
    }
    if (task.gradient.data != nullptr) {
      state.write_factors(factors, i);
    }
  }
  if (task.block_loss != nullptr) {
    loss = warp_sum(loss);
    if (i == 0) {
      task.block_loss[block_index()] = loss;
    }
  }
}

}  // namespace makemore_ext::cuda
