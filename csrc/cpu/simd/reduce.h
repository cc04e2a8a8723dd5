// What goes across the lanes of a vector, or across the vectors of an array.
#pragma once

#include <algorithm>
#include <cstdint>
#include <limits>
#include <utility>

#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// The lanes `from` of a, which those of b follow. Compilers turn it into the shuffles they have,
// and share no name for these.
template <int... from, typename Vector>
MAKEMORE_EXT_INLINE Vector shuffle(Vector a, Vector b) {
  constexpr int kCount = sizeof...(from);
  return Vector{(from < kCount ? a[from % kCount] : b[from % kCount])...};
}

template <typename T>
using LaneSequence = std::make_integer_sequence<int, kLanes<T>>;

// Lanes so far on, the first after the last.
template <int distance, typename Vector, int... lane>
MAKEMORE_EXT_INLINE Vector rotate(Vector value, std::integer_sequence<int, lane...>) {
  return shuffle<(lane + distance) % int{sizeof...(lane)}...>(value, value);
}

// The lanes joined by `join`, half of them with the other half again and again.
template <typename T, int distance = kLanes<T> / 2, typename Join>
MAKEMORE_EXT_INLINE T across_lanes(Vec<T> value, const Join& join) {
  if constexpr (distance == 0) {
    return value[0];
  } else {
    return across_lanes<T, distance / 2>(join(value, rotate<distance>(value, LaneSequence<T>())),
                                         join);
  }
}

template <typename T>
MAKEMORE_EXT_INLINE T horizontal_max(Vec<T> value) {
  return across_lanes<T>(value, max<T>);
}

template <typename T>
MAKEMORE_EXT_INLINE T horizontal_sum(Vec<T> value) {
  return across_lanes<T>(value, [](Vec<T> a, Vec<T> b) { return a + b; });
}

// The lanes of a and of b by turns, runs of `distance` of them: of each pair of runs the first or,
// for `second`, the other.
template <int distance, bool second, typename Vector, int... lane>
MAKEMORE_EXT_INLINE Vector alternate(Vector a, Vector b, std::integer_sequence<int, lane...>) {
  constexpr int kCount = sizeof...(lane);
  return shuffle<(lane / distance % 2 == 0 ? lane + (second ? distance : 0)
                                           : lane + kCount - (second ? 0 : distance))...>(a, b);
}

// across_lanes() of as many vectors as one has lanes: lane i is that of vector(i). Two vectors
// share the registers and the instructions that one would take for itself.
template <typename T, int first = 0, int count = kLanes<T>, typename Vectors, typename Join>
MAKEMORE_EXT_INLINE Vec<T> across_lanes_of_each(const Vectors& vector, const Join& join) {
  if constexpr (count == 1) {
    return vector(first);
  } else {
    constexpr int kHalf = count / 2;
    const Vec<T> a = across_lanes_of_each<T, first, kHalf>(vector, join);
    const Vec<T> b = across_lanes_of_each<T, first + kHalf, kHalf>(vector, join);
    return join(alternate<kHalf, false>(a, b, LaneSequence<T>()),
                alternate<kHalf, true>(a, b, LaneSequence<T>()));
  }
}

// The greatest of `count` elements; a NaN does not count.
template <typename T>
inline Compute<T> maximum(const T* x, int64_t count) {
  using C = Compute<T>;
  constexpr int64_t lanes = kLanes<T>;
  constexpr int kChains = 4;  // one comparison would wait for the other
  const C lowest = -std::numeric_limits<C>::infinity();
  Vec<C> best[kChains];
  std::fill(best, best + kChains, broadcast(lowest));
  int64_t i = 0;
  for (; i + kChains * lanes <= count; i += kChains * lanes) {
    for (int chain = 0; chain < kChains; ++chain) {
      best[chain] = max<C>(load(x + i + chain * lanes), best[chain]);
    }
  }
  for (; i + lanes <= count; i += lanes) {
    best[0] = max<C>(load(x + i), best[0]);
  }
  if (i < count) {
    best[1] = max<C>(load_partial(x + i, count - i, lowest), best[1]);
  }
  return horizontal_max<C>(max<C>(max<C>(best[0], best[1]), max<C>(best[2], best[3])));
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
