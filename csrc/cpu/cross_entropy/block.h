// What cross entropy does with a block of rows, whatever their layout: from the sums over classes
// to the losses, and from the upstream gradient to the factors of the gradient. The formulas stand
// in cross_entropy.cpp.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <limits>

#include "../../arguments.h"
#include "../simd/elementary.h"
#include "../simd/reduce.h"
#include "../simd/strided.h"
#include "../simd/vec.h"
#include "../simd/wide.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

enum class TargetKind { index, smoothed_index, probabilities };

struct RowBlock {
  int64_t begin;
  int64_t count;  // at most kBlockRows
};

inline constexpr int64_t kBlockRows = 128;

// Blocks are small enough to be still in the second-level cache when they are read again. Half and
// twice as much measured the same (benchmarks/tuning.py).
inline constexpr int64_t kBlockBytes = 32768;
inline constexpr int64_t kElementsPerPiece = 16384;

// The most exponentials of a block that are kept from the sums to the gradient.
inline constexpr int64_t kMostKept = 262144;

template <typename T>
struct alignas(64) BlockState {
  // From the logits, relative to their maximum. share_c is w_c for smoothed indices, v_c for
  // probabilities: see Shares.
  Compute<T> max[kBlockRows];
  double sum_exp[kBlockRows];      // sum_c exp(x_c - max)
  double share_sum[kBlockRows];    // sum_c share_c
  double share_logit[kBlockRows];  // sum_c share_c (x_c - max)

  double mass[kBlockRows];  // A

  // Of the target, where it is an index; -1 where it is ignored and after the last row, 0 where
  // there is none.
  int64_t target[kBlockRows];
  double target_weight[kBlockRows];
  double target_logit[kBlockRows];  // x_t - max

  double grad_loss[kBlockRows];
  double grad_lse[kBlockRows];

  // gradient_c = scale exp(x_c - max) - offset share_c
  double exact_scale[kBlockRows];
  Compute<T> scale[kBlockRows];
  Compute<T> offset[kBlockRows];
};

// What the mean divides by, of the weights of all targets. Where those are 0 there is no mean, as
// torch has it, whatever label smoothing or the square of lse adds to the losses.
inline double mean_divisor(double total_weight) {
  return total_weight == 0 ? std::numeric_limits<double>::quiet_NaN() : total_weight;
}

// Calls body(i) for the rows of a block, a vector of doubles at a time: the arrays have room for
// what the last one has too many.
template <typename Body>
inline void for_each_row_vector(RowBlock block, const Body& body) {
  const int64_t count = std::min(block.count, kBlockRows);  // tells the compiler how many at most
  for (int64_t i = 0; i < count; i += kLanes<double>) {
    body(i);
  }
}

template <typename T>
inline void round_rows(RowBlock block, const double* exact, T* rounded) {
  const int64_t count = std::min(block.count, kBlockRows);
  for (int64_t i = 0; i < count; i += kLanes<T>) {
    store(rounded + i, narrow(Wide<Compute<T>>::load(exact + i)));
  }
}

template <typename T>
inline void copy_row(const T* source, int64_t class_stride, int64_t classes, T* copied) {
  for (int64_t c = 0; c < classes; ++c) {
    copied[c] = source[c * class_stride];
  }
}

// The classes of a row side by side: where they are, or copied.
template <typename T>
inline const T* contiguous_row(const T* source, int64_t class_stride, int64_t classes, T* copied) {
  if (class_stride == 1) {
    return source;
  }
  copy_row(source, class_stride, classes, copied);
  return copied;
}

// Where a result that is written side by side is to go, if it is not there.
template <typename T>
inline void spread_row(const T* result, int64_t class_stride, int64_t classes, T* destination) {
  for (int64_t c = 0; result != destination && c < classes; ++c) {
    destination[c * class_stride] = result[c];
  }
}

// What target, weight and label smoothing make of a class: its share v_c of a row, or, where
// targets are indices, the part of it that all rows have, but for the factor s / C.
template <typename T, TargetKind kind>
class Shares {
 public:
  using C = Compute<T>;

  // Whether there is anything beside the target's own share.
  static constexpr bool kAny = kind != TargetKind::index;

  explicit Shares(const CrossEntropyArguments<T>& arguments)
      : weight_(arguments.weight),
        on_target_(1 - arguments.label_smoothing),
        on_class_(arguments.label_smoothing / static_cast<double>(arguments.shape.classes)) {}

  double on_target() const { return on_target_; }  // 1 - s
  double on_class() const { return on_class_; }    // s / C
  double weight_of(int64_t target) const { return weight_ == nullptr ? 1.0 : weight_[target]; }

  // Of neighbouring classes from c on, for one row. `q`: the probabilities of that row, if any.
  template <bool partial>
  MAKEMORE_EXT_INLINE Vec<C> of_classes(const T* q, int64_t c, int64_t count) const {
    const Vec<C> share = smoothed<partial>(q, c, 1, count);
    return weight_ == nullptr ? share : share * load_lanes<partial>(weight_ + c, count, C(0));
  }

  // Of one class, for neighbouring rows. `q`: the probabilities of that class, if any.
  template <bool partial>
  MAKEMORE_EXT_INLINE Vec<C> of_rows(const T* q, int64_t stride, int64_t c, int64_t count) const {
    const Vec<C> share = smoothed<partial>(q, 0, stride, count);
    return weight_ == nullptr ? share : share * weight_[c];
  }

 private:
  // q'
  template <bool partial>
  MAKEMORE_EXT_INLINE Vec<C> smoothed(const T* q, int64_t at, int64_t stride, int64_t count) const {
    if constexpr (kind == TargetKind::probabilities) {
      const Vec<C> target = load_strided<partial>(q + at, stride, count);
      return target * static_cast<C>(on_target_) + static_cast<C>(on_class_);
    } else {
      return broadcast(C(1));
    }
  }

  const C* weight_;  // [classes], or null for ones
  double on_target_;
  double on_class_;
};

template <typename T, TargetKind kind>
class BlockTargets {
 public:
  explicit BlockTargets(const CrossEntropyArguments<T>& arguments)
      : arguments_(arguments), shares_(arguments) {}

  // Reads targets and their logits; the maxima are known.
  template <typename Worker>
  void read(const Worker& worker, RowBlock block, BlockState<T>& state) const {
    std::fill(state.target, state.target + block.count, int64_t{0});
    std::fill(state.target + block.count, state.target + kBlockRows, int64_t{-1});
    if constexpr (kind != TargetKind::probabilities) {
      const int64_t class_stride = arguments_.logits.class_stride;
      const int64_t ignore_index = arguments_.ignore_index;
      for (int64_t i = 0; i < block.count; ++i) {
        const int64_t target = arguments_.target[block.begin + i];
        const bool valid = target != ignore_index;
        state.target[i] = valid ? target : -1;
        state.target_weight[i] = valid ? shares_.weight_of(target) : 0.0;
        state.target_logit[i] =
            !valid ? 0.0
                   : static_cast<double>(load_one(worker.logits_row(i) + target * class_stride)) -
                         static_cast<double>(state.max[i]);
      }
    }
  }

  // The mass and the loss of each row, from the sums; returns the sum of the losses.
  double losses(RowBlock block, BlockState<T>& state, double* losses) const {
    const double lse_square_scale = arguments_.lse_square_scale;
    Vec<double> sum{};
    for_each_row_vector(block, [&](int64_t i) {
      const Vec<double> log_sum = log<double>(load(state.sum_exp + i));
      Vec<double> mass;
      Vec<double> toward_logits;  // sum_c v_c (x_c - max)
      if constexpr (kind == TargetKind::probabilities) {
        mass = load(state.share_sum + i);
        toward_logits = load(state.share_logit + i);
      } else {
        mass = load(state.target_weight + i) * shares_.on_target();
        toward_logits = mass * load(state.target_logit + i);
        if constexpr (kind == TargetKind::smoothed_index) {
          mass += shares_.on_class() * load(state.share_sum + i);
          toward_logits += shares_.on_class() * load(state.share_logit + i);
        }
      }
      Vec<double> loss = mass * log_sum - toward_logits;
      if (lse_square_scale != 0) {
        const Vec<double> lse = max_at(state, i) + log_sum;
        loss += lse_square_scale * lse * lse;
      }
      store(state.mass + i, mass);
      loss = is_ignored(state, i) ? Vec<double>{} : loss;
      store(losses + i, loss);
      sum += loss;
    });
    return horizontal_sum<double>(sum);
  }

  // From grad_loss and grad_lse to the factors of the gradient.
  void factors(RowBlock block, BlockState<T>& state) const {
    const double lse_square_scale = arguments_.lse_square_scale;
    for_each_row_vector(block, [&](int64_t i) {
      // An ignored row has factor 0, which leaves 0, and NaN where softmax itself is NaN.
      const Vec<double> upstream = is_ignored(state, i) ? Vec<double>{} : load(state.grad_loss + i);
      const Vec<double> sum_exp = load(state.sum_exp + i);
      Vec<double> mass = load(state.mass + i);
      if (lse_square_scale != 0) {
        mass += 2 * lse_square_scale * (max_at(state, i) + log<double>(sum_exp));
      }
      const Vec<double> on_softmax =
          (upstream == 0 ? Vec<double>{} : upstream * mass) + load(state.grad_lse + i);
      store(state.grad_loss + i, upstream);
      store(state.exact_scale + i, on_softmax / sum_exp);
    });
    round_rows(block, state.exact_scale, state.scale);
    if constexpr (kind != TargetKind::index) {
      const double factor = kind == TargetKind::smoothed_index ? shares_.on_class() : 1.0;
      for (int64_t i = 0; i < block.count; ++i) {
        state.offset[i] = static_cast<Compute<T>>(state.grad_loss[i] * factor);
      }
    }
  }

  // Writes the gradient at the target, in double: p - 1 cancels where p is close to 1.
  template <typename Worker>
  void write_at_targets(const Worker& worker, RowBlock block, const BlockState<T>& state) const {
    if constexpr (kind != TargetKind::probabilities) {
      const double on_target = shares_.on_target() + shares_.on_class();
      double exact[kBlockRows];
      for_each_row_vector(block, [&](int64_t i) {
        const Vec<double> share = on_target * load(state.target_weight + i);
        store(exact + i, load(state.exact_scale + i) * exp<double>(load(state.target_logit + i)) -
                             load(state.grad_loss + i) * share);
      });
      T gradient[kBlockRows];
      round_rows(block, exact, gradient);
      const int64_t class_stride = worker.gradient_class_stride();
      for (int64_t i = 0; i < block.count; ++i) {
        if (state.target[i] >= 0) {
          worker.gradient_row(i)[state.target[i] * class_stride] = gradient[i];
        }
      }
    }
  }

 private:
  // Of a vector of rows.
  static Vec<int64_t> is_ignored(const BlockState<T>& state, int64_t i) {
    Vec<int64_t> target;
    std::memcpy(&target, state.target + i, sizeof(target));
    return target < 0;
  }
  static Vec<double> max_at(const BlockState<T>& state, int64_t i) {
    return load_doubles(state.max + i);
  }

  const CrossEntropyArguments<T>& arguments_;
  Shares<T, kind> shares_;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
