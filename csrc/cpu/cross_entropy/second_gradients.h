// The gradients of the gradient: logits and grad_grad_input, y here, are read from memory once, and
// one result of their size is written. The formulas stand in cross_entropy.cpp, and once more, for
// whatever else is differentiated, in makemore_ext/ops/cross_entropy/formulas.py.
#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

#include "../../arguments.h"
#include "../scratch.h"
#include "../simd/elementary.h"
#include "../simd/reduce.h"
#include "../simd/strided.h"
#include "../simd/vec.h"
#include "../simd/wide.h"
#include "block.h"
#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Of a block of rows.
template <typename T>
struct alignas(64) SecondState {
  // From the logits and y. share_c: see BlockState.
  Compute<T> max[kBlockRows];
  double sum_exp[kBlockRows];  // sum_c exp(x_c - max)
  double exp_y[kBlockRows];    // sum_c exp(x_c - max) y_c
  double share_sum[kBlockRows]{};
  double share_y[kBlockRows]{};  // sum_c share_c y_c

  // Of the target, where it is an index; weight 0 where it is ignored.
  double target_weight[kBlockRows];
  double target_y[kBlockRows];

  double is_valid[kBlockRows];  // 1, or 0 where a row is ignored
  double grad_loss[kBlockRows];
  double grad_lse[kBlockRows];
  double for_loss[kBlockRows];
  double mean[kBlockRows];

  // result_c = exp(x_c - max) (scale (y_c - high - low) + offset). The mean is in two parts: a
  // class that has nearly all of the probability has nearly all of the mean, too.
  Compute<T> scale[kBlockRows];
  Compute<T> high[kBlockRows];
  Compute<T> low[kBlockRows];
  Compute<T> offset[kBlockRows];
};

// Sums over classes. Each term is widened: beside that of the maximum the others would be lost.
template <typename C>
struct SecondSums {
  Wide<C> exp, exp_y, share, share_y;

  MAKEMORE_EXT_INLINE void add(Vec<C> exp_at, Wide<C> y) {
    const Wide<C> wide = Wide<C>::from(exp_at);
    exp = exp + wide;
    exp_y = exp_y + wide * y;
  }
  MAKEMORE_EXT_INLINE void add_share(Vec<C> share_at, Wide<C> y) {
    const Wide<C> wide = Wide<C>::from(share_at);
    share = share + wide;
    share_y = share_y + wide * y;
  }
};

template <typename T, TargetKind kind>
class SecondGradients {
 public:
  using C = Compute<T>;

  // `most_rows`: of a block. `in_columns`: with a row in each lane of a vector, see columns.h.
  SecondGradients(const CrossEntropyArguments<T>& arguments, const CrossEntropySecond<T>& second,
                  double divisor, int64_t most_rows, bool in_columns)
      : arguments_(arguments),
        shape_(arguments.shape),
        x_(arguments.logits),
        y_(second.grad_grad_input),
        q_(arguments.probabilities),
        result_(second.for_input),
        second_(second),
        shares_(arguments),
        divisor_(divisor),
        in_columns_(in_columns),
        stride_(round_up(in_columns ? most_rows : shape_.classes)),
        terms_(stride_ * (in_columns ? shape_.classes : most_rows)),
        x_copy_(copy_size(x_)),
        y_copy_(copy_size(y_)),
        q_copy_(copy_size(q_)),
        result_copy_(copy_size(result_)) {}

  // Returns the sum of what the rows have for the loss.
  double block(RowBlock block, SecondState<T>& state) const {
    in_columns_ ? sums_of_columns(block, state) : sums_of_rows(block, state);
    read_rows(block, state);
    factors(block, state);
    in_columns_ ? results_of_columns(block, state) : results_of_rows(block, state);
    return write_rows(block, state);
  }

 private:
  static constexpr C kLowest = -std::numeric_limits<C>::infinity();
  static constexpr bool kAny = Shares<T, kind>::kAny;

  static int64_t round_up(int64_t size) { return (size + kLanes<T> - 1) / kLanes<T> * kLanes<T>; }

  template <typename Element>
  int64_t copy_size(const RowView<Element>& view) const {
    return in_columns_ || view.class_stride == 1 ? 0 : shape_.classes;
  }

  const T* contiguous(const RowView<const T>& view, int64_t row, const Scratch<T>& copy) const {
    return contiguous_row(view.row(shape_, row), view.class_stride, shape_.classes, copy.data());
  }

  static Vec<C> times_curvature(Vec<C> exp, Vec<C> y, Vec<C> scale, Vec<C> high, Vec<C> low,
                                Vec<C> offset) {
    return exp * (scale * ((y - high) - low) + offset);
  }

  // ---- a row after the other ----

  void sums_of_rows(RowBlock block, SecondState<T>& state) const {
    const int64_t classes = shape_.classes;
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t row = block.begin + i;
      const T* const x = contiguous(x_, row, x_copy_);
      const T* const y = contiguous(y_, row, y_copy_);
      const T* const q = kind == TargetKind::probabilities ? contiguous(q_, row, q_copy_) : nullptr;
      C* const terms = terms_.data() + i * stride_;
      const C max = maximum(x, classes);
      const C shift = max == kLowest ? C(0) : max;  // see RowWorker::reduce_row
      SecondSums<C> sums;
      for_each_vector<T>(classes, [&](auto partial, int64_t c, int64_t count) {
        constexpr bool kPartial = decltype(partial)::value;
        const Vec<C> exp = exp_nonpositive<C>(load_lanes<kPartial>(x + c, count, kLowest) - shift);
        const Wide<C> y_at = Wide<C>::from(load_lanes<kPartial>(y + c, count, C(0)));
        store(terms + c, exp);
        sums.add(exp, y_at);
        if constexpr (kAny) {
          const Vec<C> share = shares_.template of_classes<kPartial>(q, c, count);
          const auto is_class = lane_numbers<C>() < static_cast<Bits<C>>(count);
          sums.add_share(is_class ? share : Vec<C>{}, y_at);
        }
      });
      state.max[i] = max;
      state.sum_exp[i] = sums.exp.sum();
      state.exp_y[i] = sums.exp_y.sum();
      state.share_sum[i] = sums.share.sum();
      state.share_y[i] = sums.share_y.sum();
    }
  }

  void results_of_rows(RowBlock block, const SecondState<T>& state) const {
    const int64_t classes = shape_.classes;
    for (int64_t i = 0; i < block.count; ++i) {
      const T* const y = contiguous(y_, block.begin + i, y_copy_);
      T* const destination = result_.row(shape_, block.begin + i);
      T* const written = result_.class_stride == 1 ? destination : result_copy_.data();
      const C* const terms = terms_.data() + i * stride_;
      const Vec<C> scale = broadcast(state.scale[i]), offset = broadcast(state.offset[i]);
      const Vec<C> high = broadcast(state.high[i]), low = broadcast(state.low[i]);
      for_each_vector<T>(classes, [&](auto partial, int64_t c, int64_t count) {
        constexpr bool kPartial = decltype(partial)::value;
        const Vec<C> y_at = load_lanes<kPartial>(y + c, count, C(0));
        store_lanes<kPartial>(
            written + c, times_curvature(load(terms + c), y_at, scale, high, low, offset), count);
      });
      spread_row(written, result_.class_stride, classes, destination);
    }
  }

  // ---- a row in each lane ----

  void sums_of_columns(RowBlock block, SecondState<T>& state) const {
    const T* const x = x_.row(shape_, block.begin);
    const T* const y = y_.row(shape_, block.begin);
    const T* const q = kind == TargetKind::probabilities ? q_.row(shape_, block.begin) : nullptr;
    const int64_t x_stride = x_.inner_stride(shape_), y_stride = y_.inner_stride(shape_);
    const int64_t q_stride = q_.inner_stride(shape_);
    for_each_vector<T>(block.count, [&](auto partial, int64_t i, int64_t count) {
      constexpr bool kPartial = decltype(partial)::value;
      C* const terms = terms_.data() + i;
      Vec<C> max = broadcast(kLowest);
      for (int64_t c = 0; c < shape_.classes; ++c) {
        const T* const of_class = x + c * x_.class_stride;
        const Vec<C> logits = load_strided<kPartial>(of_class + i * x_stride, x_stride, count);
        store(terms + c * stride_, logits);
        max = cpu::MAKEMORE_EXT_CAPABILITY::max<C>(logits, max);
      }
      const Vec<C> shift = max == kLowest ? Vec<C>{} : max;
      SecondSums<C> sums;
      for (int64_t c = 0; c < shape_.classes; ++c) {
        const Vec<C> exp = exp_nonpositive<C>(load(terms + c * stride_) - shift);
        const T* const of_class = y + c * y_.class_stride;
        const Wide<C> y_at =
            Wide<C>::from(load_strided<kPartial>(of_class + i * y_stride, y_stride, count));
        store(terms + c * stride_, exp);
        sums.add(exp, y_at);
        if constexpr (kAny) {
          const T* const q_at = q == nullptr ? nullptr : q + c * q_.class_stride + i * q_stride;
          sums.add_share(shares_.template of_rows<kPartial>(q_at, q_stride, c, count), y_at);
        }
      }
      store(state.max + i, max);
      sums.exp.store(state.sum_exp + i);
      sums.exp_y.store(state.exp_y + i);
      sums.share.store(state.share_sum + i);
      sums.share_y.store(state.share_y + i);
    });
  }

  void results_of_columns(RowBlock block, const SecondState<T>& state) const {
    const T* const y = y_.row(shape_, block.begin);
    T* const written = result_.row(shape_, block.begin);
    const int64_t y_stride = y_.inner_stride(shape_), stride = result_.inner_stride(shape_);
    for (int64_t c = 0; c < shape_.classes; ++c) {
      for_each_vector<T>(block.count, [&](auto partial, int64_t i, int64_t count) {
        constexpr bool kPartial = decltype(partial)::value;
        const T* const of_class = y + c * y_.class_stride;
        const Vec<C> y_at = load_strided<kPartial>(of_class + i * y_stride, y_stride, count);
        store_strided<kPartial>(
            written + c * result_.class_stride + i * stride, stride,
            times_curvature(load(terms_.data() + c * stride_ + i), y_at, load(state.scale + i),
                            load(state.high + i), load(state.low + i), load(state.offset + i)),
            count);
      });
    }
  }

  // ---- what there is one of for each row ----

  void read_rows(RowBlock block, SecondState<T>& state) const {
    const int64_t y_stride = in_columns_ ? y_.inner_stride(shape_) : 0;
    const T* const first_y = y_.row(shape_, block.begin);
    for (int64_t i = 0; i < block.count; ++i) {
      const int64_t row = block.begin + i;
      state.is_valid[i] = 1;
      if constexpr (kind != TargetKind::probabilities) {
        const int64_t target = arguments_.target[row];
        const T* const y = in_columns_ ? first_y + i * y_stride : y_.row(shape_, row);
        const bool is_valid = target != arguments_.ignore_index;
        state.is_valid[i] = is_valid ? 1 : 0;
        state.target_weight[i] = is_valid ? shares_.weight_of(target) : 0.0;
        state.target_y[i] = is_valid ? load_one(y + target * y_.class_stride) : C(0);
      }
      state.grad_loss[i] = second_.grad_loss[row] / divisor_;
      state.grad_lse[i] = second_.grad_lse.data == nullptr ? 0.0 : second_.grad_lse[row];
    }
  }

  void factors(RowBlock block, SecondState<T>& state) const {
    const double z = arguments_.lse_square_scale;
    double scale[kBlockRows], offset[kBlockRows];
    for_each_row_vector(block, [&](int64_t i) {
      const Vec<double> sum_exp = load(state.sum_exp + i);
      const Vec<double> mean = load(state.exp_y + i) / sum_exp;
      Vec<double> mass = load(state.share_sum + i);
      Vec<double> share_y = load(state.share_y + i);
      if constexpr (kind != TargetKind::probabilities) {
        const Vec<double> of_target = shares_.on_target() * load(state.target_weight + i);
        mass = of_target + shares_.on_class() * mass;
        share_y = of_target * load(state.target_y + i) + shares_.on_class() * share_y;
      }
      if (z != 0) {
        mass += 2 * z * (load_doubles(state.max + i) + log<double>(sum_exp));
      }
      const Vec<int64_t> is_valid = load(state.is_valid + i) != 0;
      const Vec<double> upstream = is_valid ? load(state.grad_loss + i) : Vec<double>{};
      store(state.for_loss + i, is_valid ? mass * mean - share_y : Vec<double>{});
      store(state.mean + i, mean);
      store(scale + i, (upstream * mass + load(state.grad_lse + i)) / sum_exp);
      store(offset + i, z == 0 ? Vec<double>{} : 2 * z * upstream * mean / sum_exp);
    });
    round_rows(block, scale, state.scale);
    round_rows(block, offset, state.offset);
    round_rows(block, state.mean, state.high);
    for (int64_t i = 0; i < block.count; ++i) {
      const double rest = state.mean[i] - static_cast<double>(state.high[i]);
      state.low[i] = std::isfinite(rest) ? static_cast<C>(rest) : C(0);
    }
  }

  double write_rows(RowBlock block, const SecondState<T>& state) const {
    double sum = 0;
    for (int64_t i = 0; i < block.count; ++i) {
      sum += state.for_loss[i];
      if (second_.for_loss.stride != 0) {
        second_.for_loss[block.begin + i] = static_cast<C>(state.for_loss[i]);
      }
      if (second_.for_lse.data != nullptr) {
        second_.for_lse[block.begin + i] = static_cast<C>(state.mean[i]);
      }
    }
    return sum;
  }

  const CrossEntropyArguments<T>& arguments_;
  const RowShape& shape_;
  const RowView<const T>& x_;
  const RowView<const T>& y_;
  const RowView<const T>& q_;
  const RowView<T>& result_;
  const CrossEntropySecond<T>& second_;
  Shares<T, kind> shares_;
  double divisor_;
  bool in_columns_;
  int64_t stride_;    // of terms_
  Scratch<C> terms_;  // exp(x_c - max), [rows of a block, classes] or the other way round
  Scratch<T> x_copy_;
  Scratch<T> y_copy_;
  Scratch<T> q_copy_;
  Scratch<T> result_copy_;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
