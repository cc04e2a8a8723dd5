// Cross entropy over rows of logits that are contiguous in memory, or are copied to be.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "../../arguments.h"
#include "../scratch.h"
#include "../simd/elementary.h"
#include "../simd/reduce.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "../simd/wide.h"
#include "block.h"
#include "short_rows.h"
#include "sum_exp.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Blocks of as many rows as fit the cache.
struct RowBlocks {
  int64_t rows;
  int64_t rows_per_block;
  int64_t blocks_per_piece;

  template <typename T>
  static RowBlocks of(const CrossEntropyArguments<T>& arguments) {
    const int64_t classes = std::max<int64_t>(1, arguments.shape.classes);
    constexpr int64_t kBlockElements = kBlockBytes / sizeof(T);
    const int64_t rows_per_block = std::clamp<int64_t>(kBlockElements / classes, 1, kBlockRows);
    return {arguments.shape.rows, rows_per_block,
            std::max<int64_t>(1, kElementsPerPiece / rows_per_block / classes)};
  }
  int64_t count() const { return (rows + rows_per_block - 1) / rows_per_block; }
  RowBlock operator[](int64_t index) const {
    const int64_t begin = index * rows_per_block;
    return {begin, std::min(rows_per_block, rows - begin)};
  }
};

// Rows shorter than this are not worth the care that stores past the caches take at either end.
inline constexpr int64_t kStreamedRowBytes = 3072;

// `after_reduce`: whether the gradient is asked for right after the sums of a block. Then the
// exponentials are formed once, for both.
template <typename T, TargetKind kind>
class RowWorker {
 public:
  using C = Compute<T>;

  RowWorker(const CrossEntropyArguments<T>& arguments, RowView<T> gradient, bool after_reduce)
      : arguments_(arguments),
        shares_(arguments),
        gradient_(gradient),
        keeps_(after_reduce && gradient.data != nullptr && arguments.shape.classes <= kMostKept),
        streams_(streams(arguments, gradient)),
        short_(arguments.shape.classes <= kMostShortClasses<T>),
        is_even_(arguments.shape.dimensions == 1),
        logits_copy_(short_ ? kLanes<T> * arguments.shape.classes
                            : copy_size(arguments.logits.class_stride)),
        probabilities_copy_(copy_size(arguments.probabilities.class_stride)),
        gradient_copy_(copy_size(gradient.class_stride)),
        kept_(kept_size()),
        kept_shift_(keeps_ ? rows_per_block() * chunks() : 0) {}

  ~RowWorker() {
    if (streams_) {
      finish_stores();
    }
  }

  void begin(RowBlock block) { first_row_ = block.begin; }
  const T* logits_row(int64_t i) const { return row(arguments_.logits, i); }
  T* gradient_row(int64_t i) const { return row(gradient_, i); }
  int64_t gradient_class_stride() const { return gradient_.class_stride; }

  // The maximum and the sums over classes of every row.
  void reduce(RowBlock block, BlockState<T>& state) {
    if (short_) {
      return reduce_short_rows(block, state);
    }
    for (int64_t i = 0; i < block.count; ++i) {
      reduce_row(contiguous(arguments_.logits, i, logits_copy_), probabilities_row(i), i, state);
    }
  }

  void gradient(RowBlock block, const BlockState<T>& state) const {
    if constexpr (!Shares<T, kind>::kAny) {
      if (short_ && keeps_ && gradient_.class_stride == 1) {
        const int64_t classes = arguments_.shape.classes;
        for (int64_t i = 0; i < block.count; ++i) {
          ShortRows<T>(classes).scale_row(kept_.data() + i * classes, state.scale[i],
                                          row(gradient_, i));
        }
        return;
      }
    }
    for (int64_t i = 0; i < block.count; ++i) {
      if (keeps_) {
        streams_ ? gradient_of_row<true, true>(i, state) : gradient_of_row<true, false>(i, state);
      } else {
        streams_ ? gradient_of_row<false, true>(i, state) : gradient_of_row<false, false>(i, state);
      }
    }
  }

 private:
  static constexpr bool kHasProbabilities = kind == TargetKind::probabilities;
  static constexpr int64_t kChunk = kChunkBytes / sizeof(T);

  static bool streams(const CrossEntropyArguments<T>& arguments, const RowView<T>& gradient) {
    const RowShape& shape = arguments.shape;
    return gradient.data != nullptr && gradient.data != arguments.logits.data &&
           gradient.class_stride == 1 && shape.classes >= kStreamedRowBytes / int64_t{sizeof(T)} &&
           shape.rows * shape.classes >= kStreamedBytes / int64_t{sizeof(T)};
  }

  int64_t rows_per_block() const { return RowBlocks::of(arguments_).rows_per_block; }
  int64_t chunks() const { return (arguments_.shape.classes + kChunk - 1) / kChunk; }
  int64_t kept_stride() const {
    const int64_t classes = arguments_.shape.classes;
    return short_ ? classes : (classes + kLanes<T> - 1) / kLanes<T> * kLanes<T>;
  }
  int64_t kept_size() const {
    const int64_t kept = keeps_ ? rows_per_block() * kept_stride() : 0;
    return kept + (short_ ? ShortRows<T>(arguments_.shape.classes).elements() : 0);
  }

  int64_t copy_size(int64_t class_stride) const {
    return class_stride == 1 ? 0 : arguments_.shape.classes;
  }

  template <typename Element>
  Element* row(const RowView<Element>& view, int64_t i) const {
    const int64_t index = first_row_ + i;
    return is_even_ ? view.data + index * view.strides[0] : view.row(arguments_.shape, index);
  }

  const T* contiguous(const RowView<const T>& view, int64_t i, const Scratch<T>& copy) const {
    return contiguous_row(row(view, i), view.class_stride, arguments_.shape.classes, copy.data());
  }

  const T* probabilities_row(int64_t i) const {
    return kHasProbabilities ? contiguous(arguments_.probabilities, i, probabilities_copy_)
                             : nullptr;
  }

  // Rows from i on, one after the other, as many as a vector has lanes: those in memory or a copy
  // of `count` of them, which zeros follow.
  const T* short_run(int64_t i, int64_t count) const {
    const RowView<const T>& view = arguments_.logits;
    const int64_t classes = arguments_.shape.classes;
    if (count == kLanes<T> && is_even_ && view.strides[0] == classes && view.class_stride == 1) {
      return row(view, i);
    }
    T* const copied = logits_copy_.data();
    std::fill(copied, copied + kLanes<T> * classes, T{});
    for (int64_t r = 0; r < count; ++r) {
      copy_row(row(view, i + r), view.class_stride, classes, copied + r * classes);
    }
    return copied;
  }

  // As many rows at a time as a vector has lanes.
  void reduce_short_rows(RowBlock block, BlockState<T>& state) {
    const int64_t classes = arguments_.shape.classes;
    const ShortRows<T> short_rows(classes);
    for (int64_t i = 0; i < block.count; i += kLanes<T>) {
      const T* const x = short_run(i, std::min(kLanes<T>, block.count - i));
      C* const terms = kept_.data() + (keeps_ ? i * classes : 0);
      short_rows.reduce(x, terms, state.max + i, state.sum_exp + i);
    }
    if (keeps_) {
      std::copy(state.max, state.max + block.count, kept_shift_.data());
    }
    if constexpr (Shares<T, kind>::kAny) {
      for (int64_t i = 0; i < block.count; ++i) {
        const C shift = state.max[i] == -std::numeric_limits<C>::infinity() ? C(0) : state.max[i];
        state.share_sum[i] = state.share_logit[i] = 0;
        sum_shares(contiguous(arguments_.logits, i, logits_copy_), probabilities_row(i), 0, classes,
                   shift, state.share_sum[i], state.share_logit[i]);
      }
    }
  }

  // One read of the row from memory. A new maximum moves what was summed before.
  void reduce_row(const T* x, const T* q, int64_t i, BlockState<T>& state) const {
    const C lowest = -std::numeric_limits<C>::infinity();
    const int64_t classes = arguments_.shape.classes;
    C max = lowest;
    double sum = 0;
    double shares = 0;
    double share_logit = 0;
    for (int64_t begin = 0; begin < classes; begin += kChunk) {
      const int64_t count = std::min(kChunk, classes - begin);
      const C chunk_max = maximum(x + begin, count);
      if (chunk_max > max) {
        if (max != lowest) {
          const double step = static_cast<double>(max) - static_cast<double>(chunk_max);
          sum *= std::exp(step);
          share_logit += shares * step;
        }
        max = chunk_max;
      }
      // Without a maximum yet, any finite shift sums -inf to 0 and keeps a NaN.
      const C shift = max == lowest ? C(0) : max;
      if (keeps_) {
        sum += sum_exp<true>(x + begin, count, shift, kept_.data() + i * kept_stride() + begin);
        kept_shift_.data()[i * chunks() + begin / kChunk] = max;
      } else {
        sum += sum_exp<false>(x + begin, count, shift, static_cast<C*>(nullptr));
      }
      if constexpr (Shares<T, kind>::kAny) {
        sum_shares(x + begin, q, begin, count, shift, shares, share_logit);
      }
    }
    state.max[i] = max;
    state.sum_exp[i] = sum;
    state.share_sum[i] = shares;
    state.share_logit[i] = share_logit;
  }

  void sum_shares(const T* x, const T* q, int64_t begin, int64_t count, C shift, double& shares,
                  double& share_logit) const {
    Wide<C> sum;
    Wide<C> sum_logit;
    const Wide<C> wide_shift = Wide<C>::of(shift);
    int64_t c = 0;
    for (; c + kLanes<T> <= count; c += kLanes<T>) {
      const Wide<C> share = Wide<C>::from(shares_.template of_classes<false>(q, begin + c, 0));
      sum = sum + share;
      sum_logit = sum_logit + share * (Wide<C>::from(load(x + c)) - wide_shift);
    }
    shares += sum.sum();
    share_logit += sum_logit.sum();
    if (c < count) {
      const Vec<C> share = shares_.template of_classes<true>(q, begin + c, count - c);
      for (int64_t lane = 0; c + lane < count; ++lane) {
        shares += share[lane];
        share_logit += static_cast<double>(share[lane]) *
                       (static_cast<double>(load_one(x + c + lane)) - static_cast<double>(shift));
      }
    }
  }

  template <bool kept, bool streamed>
  void gradient_of_row(int64_t i, const BlockState<T>& state) const {
    const int64_t classes = arguments_.shape.classes;
    const T* x = kept ? nullptr : contiguous(arguments_.logits, i, logits_copy_);
    const T* q = probabilities_row(i);
    T* destination = row(gradient_, i);
    T* dx = gradient_.class_stride == 1 ? destination : gradient_copy_.data();
    for (int64_t begin = 0; begin < classes; begin += kChunk) {
      const int64_t end = std::min(begin + kChunk, classes);
      C scale = state.scale[i];
      if constexpr (kept) {
        const C shift = kept_shift_.data()[i * chunks() + begin / kChunk];
        scale *= shift == state.max[i] ? C(1) : std::exp(shift - state.max[i]);
      }
      int64_t c = begin;
      const auto tail = [&](int64_t count) {
        gradient_at<true, kept, false>(x, q, dx, c, count, i, scale, state);
        c += count;
      };
      const int64_t head = streamed ? elements_to_alignment(dx + c, kStoredBytes<T>) : 0;
      if (head > 0) {
        tail(std::min(head, end - c));
      }
      for (; c + kLanes<T> <= end; c += kLanes<T>) {
        gradient_at<false, kept, streamed>(x, q, dx, c, kLanes<T>, i, scale, state);
      }
      if (c < end) {
        tail(end - c);
      }
    }
    spread_row(dx, gradient_.class_stride, classes, destination);
  }

  template <bool partial, bool kept, bool streamed>
  void gradient_at(const T* x, const T* q, T* dx, int64_t c, int64_t count, int64_t i, C scale,
                   const BlockState<T>& state) const {
    Vec<C> result;
    if constexpr (kept) {
      result = load_lanes<partial>(kept_.data() + i * kept_stride() + c, count, C(0)) * scale;
    } else {
      const Vec<C> logits = load_lanes<partial>(x + c, count, C(0));
      result = exp_nonpositive<C>(logits - state.max[i]) * scale;
    }
    if constexpr (Shares<T, kind>::kAny) {
      result -= shares_.template of_classes<partial>(q, c, count) * state.offset[i];
    }
    store_lanes_through<partial, streamed>(dx + c, result, count);
  }

  const CrossEntropyArguments<T>& arguments_;
  Shares<T, kind> shares_;
  RowView<T> gradient_;
  bool keeps_;
  bool streams_;
  bool short_;    // whether ShortRows does the sums
  bool is_even_;  // whether all rows are equally far apart
  Scratch<T> logits_copy_;
  Scratch<T> probabilities_copy_;
  Scratch<T> gradient_copy_;
  Scratch<C> kept_;        // [rows of a block, classes], exp(x - shift)
  Scratch<C> kept_shift_;  // [rows of a block, chunks], the maximum known at that chunk
  int64_t first_row_ = 0;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
