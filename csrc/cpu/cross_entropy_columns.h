// Cross entropy over neighbouring rows that lie side by side in memory, their classes far apart:
// images [N, C, H, W], where the class is the channel. A lane of a vector is a row here, so nothing
// is ever summed across lanes.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "cross_entropy_block.h"
#include "elementary.h"
#include "kernels.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Blocks of neighbours along the innermost dimension, the narrower the more classes there are.
struct ColumnBlocks {
  int64_t lines;  // of rows that lie side by side
  int64_t rows_per_line;
  int64_t rows_per_block;
  int64_t blocks_per_line;
  int64_t blocks_per_piece;

  template <typename T>
  static ColumnBlocks of(const CrossEntropyArguments<T>& arguments) {
    constexpr int64_t kCacheLine = 64 / sizeof(T);
    const int64_t classes = std::max<int64_t>(1, arguments.shape.classes);
    const int64_t class_bytes = classes * static_cast<int64_t>(sizeof(T));
    const int64_t fitting = 4 * kBlockBytes / class_bytes / kCacheLine * kCacheLine;
    const int64_t rows_per_block = std::clamp<int64_t>(fitting, kCacheLine, kBlockRows);
    const int64_t inner = arguments.shape.inner();
    return {arguments.shape.rows / inner, inner, rows_per_block,
            (inner + rows_per_block - 1) / rows_per_block,
            std::max<int64_t>(1, kElementsPerPiece / (rows_per_block * classes))};
  }
  int64_t count() const { return lines * blocks_per_line; }
  RowBlock operator[](int64_t index) const {
    const int64_t begin = index % blocks_per_line * rows_per_block;
    return {index / blocks_per_line * rows_per_line + begin,
            std::min(rows_per_block, rows_per_line - begin)};
  }
};

template <typename T, TargetKind kind>
class ColumnWorker {
 public:
  using C = Compute<T>;

  ColumnWorker(const CrossEntropyArguments<T>& arguments, RowView<T> gradient)
      : arguments_(arguments),
        weight_(arguments.weight),
        gradient_(gradient),
        on_target_(static_cast<C>(1 - arguments.label_smoothing)),
        on_class_(static_cast<C>(arguments.label_smoothing /
                                 static_cast<double>(arguments.shape.classes))) {}

  void begin(RowBlock block) {
    x_ = arguments_.logits.row(arguments_.shape, block.begin);
    if constexpr (kind == TargetKind::probabilities) {
      q_ = arguments_.probabilities.row(arguments_.shape, block.begin);
    }
    dx_ = gradient_.data == nullptr ? nullptr : gradient_.row(arguments_.shape, block.begin);
  }
  const T* logits_row(int64_t i) const { return x_ + i; }
  T* gradient_row(int64_t i) const { return dx_ + i; }
  int64_t gradient_class_stride() const { return gradient_.class_stride; }

  // The maximum and the sums over classes of every row.
  void reduce(RowBlock block, BlockState<T>& state) const {
    const int64_t classes = arguments_.shape.classes;
    std::fill(state.max, state.max + kBlockRows, -std::numeric_limits<C>::infinity());
    std::fill(state.sum_exp, state.sum_exp + kBlockRows, 0.0);
    std::fill(state.shares, state.shares + kBlockRows, 0.0);
    std::fill(state.share_logit, state.share_logit + kBlockRows, 0.0);
    for (int64_t begin = 0; begin < classes; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, classes);
      for_each_vector(block, [&](auto partial, int64_t i, int64_t count) {
        constexpr bool kPartial = decltype(partial)::value;
        reduce_at<kPartial>(begin, end, i, count, state);
      });
    }
  }

  void gradient(RowBlock block, const BlockState<T>& state) const {
    for_each_vector(block, [&](auto partial, int64_t i, int64_t count) {
      constexpr bool kPartial = decltype(partial)::value;
      const Vec<C> max = load(state.max + i);
      const Vec<C> scale = load(state.scale + i);
      for (int64_t c = 0; c < arguments_.shape.classes; ++c) {
        Vec<C> result = exp_nonpositive<C>(logits_at<kPartial>(c, i, count) - max) * scale;
        if constexpr (kHasShares) {
          result -= shares_at<kPartial>(c, i, count) * load(state.offset + i);
        }
        store_lanes<kPartial>(dx_ + c * gradient_.class_stride + i, result, count);
      }
    });
  }

 private:
  static constexpr bool kHasShares = kind != TargetKind::index;

  // Classes whose rows of a block are still in the first-level cache when they are summed, after
  // their maxima are known.
  static constexpr int64_t kChunk = 64;

  // Calls body for every vector of rows, at last for the remainder.
  template <typename Body>
  static void for_each_vector(RowBlock block, const Body& body) {
    int64_t i = 0;
    for (; i + kLanes<T> <= block.count; i += kLanes<T>) {
      body(std::false_type{}, i, kLanes<T>);
    }
    if (i < block.count) {
      body(std::true_type{}, i, block.count - i);
    }
  }

  template <bool partial>
  Vec<C> logits_at(int64_t c, int64_t i, int64_t count) const {
    return load_lanes<partial>(x_ + c * arguments_.logits.class_stride + i, count, C(0));
  }

  // share_c of the rows from i on, see BlockState.
  template <bool partial>
  Vec<C> shares_at(int64_t c, int64_t i, int64_t count) const {
    Vec<C> share = broadcast(C(1));
    if constexpr (kind == TargetKind::probabilities) {
      const T* q = q_ + c * arguments_.probabilities.class_stride + i;
      share = load_lanes<partial>(q, count, C(0)) * on_target_ + on_class_;
    }
    return weight_ == nullptr ? share : share * weight_[c];
  }

  // Adds the classes [begin, end) to the sums of a vector of rows. A new maximum moves what was
  // summed before.
  template <bool partial>
  void reduce_at(int64_t begin, int64_t end, int64_t i, int64_t count, BlockState<T>& state) const {
    const Vec<C> lowest = broadcast(-std::numeric_limits<C>::infinity());
    const Vec<C> before = load(state.max + i);
    Vec<C> max = before;
    for (int64_t c = begin; c < end; ++c) {
      max = cpu::MAKEMORE_EXT_CAPABILITY::max<C>(logits_at<partial>(c, i, count), max);
    }
    // Without a maximum yet, any finite shift sums -inf to 0 and keeps a NaN.
    const Vec<C> shift = max == lowest ? broadcast(C(0)) : max;
    const Vec<C> step = before == lowest ? broadcast(C(0)) : before - max;
    store(state.max + i, max);

    Wide<C> sum = Wide<C>::load(state.sum_exp + i) * Wide<C>::from(exp_nonpositive<C>(step));
    // Four exponentials, each at most 1, are added before they are widened.
    const auto term = [&](int64_t c) {
      return exp_nonpositive<C>(logits_at<partial>(c, i, count) - shift);
    };
    int64_t c = begin;
    for (; c + 4 <= end; c += 4) {
      sum = sum + Wide<C>::from((term(c) + term(c + 1)) + (term(c + 2) + term(c + 3)));
    }
    for (; c < end; ++c) {
      sum = sum + Wide<C>::from(term(c));
    }
    sum.store(state.sum_exp + i);

    if constexpr (kHasShares) {
      Wide<C> shares = Wide<C>::load(state.shares + i);
      Wide<C> share_logit = Wide<C>::load(state.share_logit + i) + shares * Wide<C>::from(step);
      const Wide<C> wide_shift = Wide<C>::from(shift);
      for (c = begin; c < end; ++c) {
        const Wide<C> share = Wide<C>::from(shares_at<partial>(c, i, count));
        shares = shares + share;
        share_logit =
            share_logit + share * (Wide<C>::from(logits_at<partial>(c, i, count)) - wide_shift);
      }
      shares.store(state.shares + i);
      share_logit.store(state.share_logit + i);
    }
  }

  const CrossEntropyArguments<T>& arguments_;
  const C* weight_;
  RowView<T> gradient_;
  C on_target_;
  C on_class_;
  const T* x_ = nullptr;
  const T* q_ = nullptr;
  T* dx_ = nullptr;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
