// Sums of the exponentials of what is left to the maximum.
#pragma once

#include <cstdint>
#include <limits>

#include "../simd/elementary.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "../simd/wide.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Adds exponentials of what is left to the maximum. Four are added before they are widened, two
// roundings that a sum of many does not see; but beside that of the maximum itself, which is 1, a
// float would lose most of what a confident row has left for the others.
template <typename C>
MAKEMORE_EXT_INLINE void add_four(const Vec<C> (&terms)[4], Wide<C>& sum) {
  const Vec<C> together = (terms[0] + terms[1]) + (terms[2] + terms[3]);
  if (any_at_least<C>(together, 1)) {
    for (const Vec<C>& term : terms) {
      sum = sum + Wide<C>::from(term);
    }
  } else {
    sum = sum + Wide<C>::from(together);
  }
}

// What is still in the first-level cache when it is summed, after its maximum is known. Half was
// slower for 32,000 classes, and so was twice in float32 (benchmarks/tuning.py).
inline constexpr int64_t kChunkBytes = 8192;

// sum_c exp(x_c - shift); the exponentials themselves go to `kept` where that is asked for.
// Meanwhile the next chunk is on its way.
template <bool keep, typename T>
inline double sum_exp(const T* x, int64_t count, Compute<T> shift, Compute<T>* kept) {
  using C = Compute<T>;
  constexpr int64_t lanes = kLanes<T>;
  const auto keep_at = [&](int64_t i, Vec<C> term) {
    if constexpr (keep) {
      store(kept + i, term);
    }
    return term;
  };
  const auto term = [&](int64_t i) {
    read_ahead(x + i, kChunkBytes);
    return keep_at(i, exp_nonpositive<C>(load(x + i) - shift));
  };
  Wide<C> sum;
  int64_t i = 0;
  for (; i + 4 * lanes <= count; i += 4 * lanes) {
    add_four<C>({term(i), term(i + lanes), term(i + 2 * lanes), term(i + 3 * lanes)}, sum);
  }
  for (; i + lanes <= count; i += lanes) {
    sum = sum + Wide<C>::from(term(i));
  }
  if (i < count) {
    const C lowest = -std::numeric_limits<C>::infinity();
    const Vec<C> last = load_partial(x + i, count - i, lowest);
    sum = sum + Wide<C>::from(keep_at(i, exp_nonpositive<C>(last - shift)));
  }
  return sum.sum();
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
