// Cross entropy with a row in each lane of a vector, so that nothing is ever summed across lanes.
// For neighbouring rows that lie side by side in memory, their classes far apart: images
// [N, C, H, W], where the class is the channel. For rows of very few classes also, whose elements
// are brought side by side one by one.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>

#include "../../arguments.h"
#include "../scratch.h"
#include "../simd/elementary.h"
#include "../simd/stream.h"
#include "../simd/strided.h"
#include "../simd/vec.h"
#include "../simd/wide.h"
#include "block.h"

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
    constexpr int64_t kBlockElements = 4 * kBlockBytes / sizeof(T);
    const int64_t fitting = kBlockElements / classes / kCacheLine * kCacheLine;
    const int64_t rows_per_block = std::clamp<int64_t>(fitting, kCacheLine, kBlockRows);
    const int64_t inner = arguments.shape.inner();
    return {arguments.shape.rows / inner, inner, rows_per_block,
            (inner + rows_per_block - 1) / rows_per_block,
            std::max<int64_t>(1, kElementsPerPiece / rows_per_block / classes)};
  }
  int64_t count() const { return lines * blocks_per_line; }
  RowBlock operator[](int64_t index) const {
    const int64_t begin = index % blocks_per_line * rows_per_block;
    return {index / blocks_per_line * rows_per_line + begin,
            std::min(rows_per_block, rows_per_line - begin)};
  }
};

// Of more classes than this, rows one after the other are better taken a row at a time.
inline constexpr int64_t kMostGatheredClasses = 4;

// Of a chunk of classes, the logits are read once and worked on in a place of their own, where
// those of a class lie next to those of the one before: as far apart as they come, in an image
// whose size is a power of two, they would all share a few lines of the cache.
//
// `after_reduce`: whether the gradient is asked for right after the sums of a block. Then the
// exponentials are formed once, for both.
template <typename T, TargetKind kind>
class ColumnWorker {
 public:
  using C = Compute<T>;

  ColumnWorker(const CrossEntropyArguments<T>& arguments, RowView<T> gradient, bool after_reduce)
      : arguments_(arguments),
        shares_(arguments),
        gradient_(gradient),
        x_stride_(arguments.logits.inner_stride(arguments.shape)),
        q_stride_(arguments.probabilities.inner_stride(arguments.shape)),
        dx_stride_(gradient.inner_stride(arguments.shape)),
        rows_(ColumnBlocks::of(arguments).rows_per_block),
        keeps_(after_reduce && gradient.data != nullptr &&
               arguments.shape.classes * rows_ <= kMostKept),
        work_((keeps_ ? arguments.shape.classes : std::min(kChunk, arguments.shape.classes)) *
              rows_),
        kept_shift_(keeps_ ? chunks() * rows_ : 0) {}

  void begin(RowBlock block) {
    x_ = arguments_.logits.row(arguments_.shape, block.begin);
    if constexpr (kind == TargetKind::probabilities) {
      q_ = arguments_.probabilities.row(arguments_.shape, block.begin);
    }
    dx_ = gradient_.data == nullptr ? nullptr : gradient_.row(arguments_.shape, block.begin);
  }
  const T* logits_row(int64_t i) const { return x_ + i * x_stride_; }
  T* gradient_row(int64_t i) const { return dx_ + i * dx_stride_; }
  int64_t gradient_class_stride() const { return gradient_.class_stride; }

  // The maximum and the sums over classes of every row.
  void reduce(RowBlock block, BlockState<T>& state) const {
    const int64_t classes = arguments_.shape.classes;
    std::fill(state.max, state.max + kBlockRows, -std::numeric_limits<C>::infinity());
    std::fill(state.sum_exp, state.sum_exp + kBlockRows, 0.0);
    std::fill(state.share_sum, state.share_sum + kBlockRows, 0.0);
    std::fill(state.share_logit, state.share_logit + kBlockRows, 0.0);
    C before[kBlockRows];
    for (int64_t begin = 0; begin < classes; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, classes);
      std::copy(state.max, state.max + rows_, before);
      C* work = work_.data() + (keeps_ ? begin * rows_ : 0);
      read(block, begin, end, work, state.max);
      for_each_vector<T>(block.count, [&](auto partial, int64_t i, int64_t count) {
        constexpr bool kPartial = decltype(partial)::value;
        reduce_at<kPartial>(begin, end, i, count, load(before + i), work + i, state);
      });
      if (keeps_) {
        std::copy(state.max, state.max + rows_, kept_shift_.data() + begin / kChunk * rows_);
      }
    }
  }

  void gradient(RowBlock block, const BlockState<T>& state) const {
    keeps_ ? gradient_of<true>(block, state) : gradient_of<false>(block, state);
  }

 private:
  // Classes whose rows of a block are still in the first-level cache when they are summed, after
  // their maxima are known.
  static constexpr int64_t kChunk = 64;

  // Classes ahead that are on their way while one is read.
  static constexpr int64_t kReadAhead = 8;

  int64_t chunks() const { return (arguments_.shape.classes + kChunk - 1) / kChunk; }

  template <bool partial>
  Vec<C> logits_at(int64_t c, int64_t i, int64_t count) const {
    const T* const of_class = x_ + c * arguments_.logits.class_stride;
    return load_strided<partial>(of_class + i * x_stride_, x_stride_, count);
  }

  // The shares of class c in the rows from i on.
  template <bool partial>
  Vec<C> shares_at(int64_t c, int64_t i, int64_t count) const {
    const T* const of_class = q_ + c * arguments_.probabilities.class_stride;
    return shares_.template of_rows<partial>(of_class + i * q_stride_, q_stride_, c, count);
  }

  // The logits of the classes [begin, end) to `work`, and the running maxima.
  void read(RowBlock block, int64_t begin, int64_t end, C* work, C* maxima) const {
    const int64_t ahead = kReadAhead * arguments_.logits.class_stride * sizeof(T);
    for (int64_t c = begin; c < end; ++c) {
      for_each_vector<T>(block.count, [&](auto partial, int64_t i, int64_t count) {
        constexpr bool kPartial = decltype(partial)::value;
        read_ahead(x_ + c * arguments_.logits.class_stride + i * x_stride_, ahead);
        const Vec<C> logits = logits_at<kPartial>(c, i, count);
        store(work + (c - begin) * rows_ + i, logits);
        store(maxima + i, max<C>(logits, load(maxima + i)));
      });
    }
  }

  // Adds the classes [begin, end) to the sums of a vector of rows, whose logits are at `work`, and
  // leaves their exponentials there. A new maximum moves what was summed before.
  template <bool partial>
  void reduce_at(int64_t begin, int64_t end, int64_t i, int64_t count, Vec<C> before, C* work,
                 BlockState<T>& state) const {
    const Vec<C> lowest = broadcast(-std::numeric_limits<C>::infinity());
    const Vec<C> max = load(state.max + i);
    // Without a maximum yet, any finite shift sums -inf to 0 and keeps a NaN.
    const Vec<C> shift = max == lowest ? broadcast(C(0)) : max;
    const Vec<C> step = before == lowest ? broadcast(C(0)) : before - max;

    if constexpr (Shares<T, kind>::kAny) {
      Wide<C> shares = Wide<C>::load(state.share_sum + i);
      Wide<C> share_logit = Wide<C>::load(state.share_logit + i) + shares * Wide<C>::from(step);
      const Wide<C> wide_shift = Wide<C>::from(shift);
      for (int64_t c = begin; c < end; ++c) {
        const Wide<C> share = Wide<C>::from(shares_at<partial>(c, i, count));
        const Wide<C> logits = Wide<C>::from(load(work + (c - begin) * rows_));
        shares = shares + share;
        share_logit = share_logit + share * (logits - wide_shift);
      }
      shares.store(state.share_sum + i);
      share_logit.store(state.share_logit + i);
    }

    Wide<C> sum = Wide<C>::load(state.sum_exp + i) * Wide<C>::from(exp_nonpositive<C>(step));
    // Four exponentials are added before they are widened. Those of maxima are 1, and counted apart
    // (see sum_exp.h): of four vectors nearly all have one.
    Vec<C> ones{};
    const auto term = [&](int64_t c) {
      C* place = work + (c - begin) * rows_;
      const Vec<C> difference = load(place) - shift;
      const Vec<C> result = exp_nonpositive<C>(difference);
      store(place, result);
      const auto is_one = difference == C(0);
      ones += is_one ? broadcast(C(1)) : Vec<C>{};
      return is_one ? Vec<C>{} : result;
    };
    int64_t c = begin;
    for (; c + 4 <= end; c += 4) {
      sum = sum + Wide<C>::from((term(c) + term(c + 1)) + (term(c + 2) + term(c + 3)));
    }
    for (; c < end; ++c) {
      sum = sum + Wide<C>::from(term(c));
    }
    (sum + Wide<C>::from(ones)).store(state.sum_exp + i);
  }

  template <bool kept>
  void gradient_of(RowBlock block, const BlockState<T>& state) const {
    const int64_t classes = arguments_.shape.classes;
    for (int64_t begin = 0; begin < classes; begin += kChunk) {
      C scales[kBlockRows];
      for (int64_t i = 0; i < block.count; i += kLanes<T>) {
        Vec<C> scale = load(state.scale + i);
        if constexpr (kept) {
          const Vec<C> shift = load(kept_shift_.data() + begin / kChunk * rows_ + i);
          const Vec<C> max = load(state.max + i);
          scale = shift == max ? scale : scale * exp_nonpositive<C>(shift - max);
        }
        store(scales + i, scale);
      }
      for (int64_t c = begin; c < std::min(begin + kChunk, classes); ++c) {
        for_each_vector<T>(block.count, [&](auto partial, int64_t i, int64_t count) {
          constexpr bool kPartial = decltype(partial)::value;
          Vec<C> result;
          if constexpr (kept) {
            result = load(work_.data() + c * rows_ + i);
          } else {
            result = exp_nonpositive<C>(logits_at<kPartial>(c, i, count) - load(state.max + i));
          }
          result *= load(scales + i);
          if constexpr (Shares<T, kind>::kAny) {
            result -= shares_at<kPartial>(c, i, count) * load(state.offset + i);
          }
          T* const of_class = dx_ + c * gradient_.class_stride;
          store_strided<kPartial>(of_class + i * dx_stride_, dx_stride_, result, count);
        });
      }
    }
  }

  const CrossEntropyArguments<T>& arguments_;
  Shares<T, kind> shares_;
  RowView<T> gradient_;
  int64_t x_stride_;  // from a row to the next
  int64_t q_stride_;
  int64_t dx_stride_;
  int64_t rows_;  // of a block
  bool keeps_;
  Scratch<C> work_;        // [classes of a chunk, or all of them, rows of a block]
  Scratch<C> kept_shift_;  // [chunks, rows of a block], the maximum known at that chunk
  const T* x_ = nullptr;
  const T* q_ = nullptr;
  T* dx_ = nullptr;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
