// The maximum and the sums over classes that cross entropy needs of a row, gathered in one pass
// over its logits by many threads.
#pragma once

#include "../reduce.cuh"
#include "../vec.cuh"

namespace makemore_ext::cuda {

template <typename C>
__device__ inline C lowest() {
  return static_cast<C>(sizeof(C) == sizeof(float) ? -3.402823466e+38 : -1.7976931348623157e+308);
}

// Sums over some classes of a row, relative to their maximum. A new maximum moves what was summed
// before. What shares are depends on the kind of target, see shares_at.
//
// Without a class, or with logits of -inf alone, max is the lowest finite number and exp zero: a
// finite shift sums -inf to 0 and keeps a NaN.
template <typename T, bool kHasShares>
struct RowSums {
  using C = Compute<T>;

  C max;
  Sum<C> exp;          // sum_c exp(x_c - max)
  Sum<C> share;        // sum_c share_c
  Sum<C> share_logit;  // sum_c share_c (x_c - max)

  __device__ static RowSums none() { return {lowest<C>(), {}, {}, {}}; }

  template <int count>
  __device__ void add(const Pack<T, count>& logits, const Pack<T, count>& shares) {
    C most = max;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      most = fmax(most, logits.lane[i]);
    }
    move_to(most);
#pragma unroll
    for (int i = 0; i < count; ++i) {
      const C logit = logits.lane[i] - max;
      exp.add(::exp(logit));
      if constexpr (kHasShares) {
        share.add(shares.lane[i]);
        share_logit.add(shares.lane[i] * logit);
      }
    }
  }

  __device__ void move_to(C most) {
    if (most > max) {
      const C step = max - most;
      exp.scale(::exp(step));
      if constexpr (kHasShares) {
        if (share.total() != 0) {
          share_logit.add(static_cast<C>(share.total()) * step);
        }
      }
      max = most;
    }
  }

  __device__ void add(const RowSums& other) {
    RowSums moved = other;
    moved.move_to(max);
    move_to(moved.max);
    exp.add(moved.exp);
    if constexpr (kHasShares) {
      share.add(moved.share);
      share_logit.add(moved.share_logit);
    }
  }

  // Over the lanes of a warp; all of them get it.
  __device__ void reduce_warp() {
    move_to(warp_max(max));
    exp = warp_sum(exp);
    if constexpr (kHasShares) {
      share = warp_sum(share);
      share_logit = warp_sum(share_logit);
    }
  }
};

}  // namespace makemore_ext::cuda
