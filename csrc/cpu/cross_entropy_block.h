// What cross entropy does with a block of rows, whatever their layout: from the sums over classes
// to the losses, and from the upstream gradient to the factors of the gradient. The formulas stand
// in cross_entropy.h.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "elementary.h"
#include "kernels.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

enum class TargetKind { index, smoothed_index, probabilities };

struct RowBlock {
  int64_t begin;
  int64_t count;  // at most kBlockRows
};

inline constexpr int64_t kBlockRows = 128;

// Blocks are small enough to be still in the second-level cache when they are read again.
inline constexpr int64_t kBlockBytes = 32768;
inline constexpr int64_t kElementsPerPiece = 16384;

template <typename T>
struct alignas(64) BlockState {
  // From the logits, relative to their maximum. What `shares` are depends on the kind of target:
  // w_c for smoothed indices, v_c for probabilities.
  Compute<T> max[kBlockRows];
  double sum_exp[kBlockRows];      // sum_c exp(x_c - max)
  double shares[kBlockRows];       // their sum
  double share_logit[kBlockRows];  // sum_c share_c (x_c - max)

  double log_sum[kBlockRows];  // in forward only
  double mass[kBlockRows];     // A

  // Of the target, where it is an index; -1 where it is ignored, 0 where there is none.
  int64_t target[kBlockRows];
  double target_weight[kBlockRows];
  double target_logit[kBlockRows];  // x_t - max

  double grad_loss[kBlockRows];
  double grad_lse[kBlockRows];
  double on_softmax[kBlockRows];  // what p_c is multiplied by in the gradient

  // gradient_c = scale exp(x_c - max) - offset share_c
  Compute<T> scale[kBlockRows];
  Compute<T> offset[kBlockRows];
};

// y = f(x) over the rows of a block, a vector at a time: the arrays have room for the remainder.
template <Vec<double> function(Vec<double>)>
inline void map_rows(const double* x, double* y, int64_t count) {
  for (int64_t i = 0; i < count; i += kLanes<double>) {
    store(y + i, function(load(x + i)));
  }
}

template <typename T, TargetKind kind>
class BlockTargets {
 public:
  explicit BlockTargets(const CrossEntropyArguments<T>& arguments)
      : arguments_(arguments),
        weight_(arguments.weight),
        on_target_(1 - arguments.label_smoothing),
        on_class_(arguments.label_smoothing / static_cast<double>(arguments.shape.classes)) {}

  // Reads targets and their logits; the maxima are known.
  template <typename Worker>
  void load(const Worker& worker, RowBlock block, BlockState<T>& state) const {
    for (int64_t i = 0; i < block.count; ++i) {
      int64_t target = 0;
      if constexpr (kind != TargetKind::probabilities) {
        target = arguments_.target[block.begin + i];
        target = target == arguments_.ignore_index ? -1 : target;
        state.target_weight[i] = target < 0 ? 0.0 : weight_ == nullptr ? 1.0 : weight_[target];
        state.target_logit[i] =
            target < 0 ? 0.0
                       : static_cast<double>(load_one(worker.logits_row(i) +
                                                      target * arguments_.logits.class_stride)) -
                             static_cast<double>(state.max[i]);
      }
      state.target[i] = target;
    }
  }

  // log_sum, mass and the loss of each row, from the sums.
  void losses(RowBlock block, BlockState<T>& state, double* losses) const {
    map_rows<log<double>>(state.sum_exp, state.log_sum, block.count);
    for (int64_t i = 0; i < block.count; ++i) {
      const bool valid = state.target[i] >= 0;
      double toward_logits = 0;  // sum_c v_c (x_c - max)
      if constexpr (kind == TargetKind::probabilities) {
        state.mass[i] = state.shares[i];
        toward_logits = state.share_logit[i];
      } else {
        const double weight = on_target_ * state.target_weight[i];
        state.mass[i] = weight;
        toward_logits = weight * state.target_logit[i];
        if constexpr (kind == TargetKind::smoothed_index) {
          state.mass[i] += on_class_ * state.shares[i];
          toward_logits += on_class_ * state.share_logit[i];
        }
      }
      double loss = state.mass[i] * state.log_sum[i] - toward_logits;
      if (arguments_.lse_square_scale != 0) {
        const double lse = state.max[i] + state.log_sum[i];
        loss += arguments_.lse_square_scale * lse * lse;
      }
      losses[i] = valid ? loss : 0.0;
    }
  }

  // From grad_loss and grad_lse to the factors of the gradient.
  void factors(RowBlock block, BlockState<T>& state) const {
    for (int64_t i = 0; i < block.count; ++i) {
      // An ignored row has factor 0, which leaves 0, and NaN where softmax itself is NaN.
      const double upstream = state.target[i] < 0 ? 0.0 : state.grad_loss[i];
      double mass = state.mass[i];
      if (arguments_.lse_square_scale != 0) {
        mass += 2 * arguments_.lse_square_scale * (state.max[i] + std::log(state.sum_exp[i]));
      }
      state.grad_loss[i] = upstream;
      state.on_softmax[i] = (upstream == 0 ? 0.0 : upstream * mass) + state.grad_lse[i];
      state.scale[i] = static_cast<Compute<T>>(state.on_softmax[i] / state.sum_exp[i]);
      state.offset[i] = static_cast<Compute<T>>(
          kind == TargetKind::smoothed_index ? upstream * on_class_ : upstream);
    }
  }

  // Writes the gradient at the target, in double: p - 1 cancels where p is close to 1.
  template <typename Worker>
  void write_at_targets(const Worker& worker, RowBlock block, const BlockState<T>& state) const {
    if constexpr (kind != TargetKind::probabilities) {
      double exp_target[kBlockRows];
      map_rows<exp<double>>(state.target_logit, exp_target, block.count);
      for (int64_t i = 0; i < block.count; ++i) {
        if (state.target[i] >= 0) {
          const double share = (on_target_ + on_class_) * state.target_weight[i];
          store_one(
              worker.gradient_row(i) + state.target[i] * worker.gradient_class_stride(),
              static_cast<Compute<T>>(state.on_softmax[i] * (exp_target[i] / state.sum_exp[i]) -
                                      state.grad_loss[i] * share));
        }
      }
    }
  }

 private:
  const CrossEntropyArguments<T>& arguments_;
  const Compute<T>* weight_;
  double on_target_;
  double on_class_;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
