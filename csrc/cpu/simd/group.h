// Groups: as many neighbouring elements as are loaded, computed and stored together.
//
// A group of BFloat16 fills two vectors of float, one with the elements at even places, one with
// those at odd places: the two halves of a 32-bit lane of memory, which come apart and together
// again without moving between lanes. A group of any other type is one vector.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <type_traits>
#include <utility>

#include "reduce.h"
#include "stream.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <typename T>
inline constexpr int kGroupVectors = std::is_same_v<T, BFloat16> ? 2 : 1;

template <typename T>
inline constexpr int64_t kGroup = kGroupVectors<T> * kLanes<T>;
template <typename T>
inline constexpr int64_t kGroupBytes = kGroup<T> * static_cast<int64_t>(sizeof(T));

template <typename T>
struct Group {
  Vec<Compute<T>> of[kGroupVectors<T>];
};

// The vectors of a group in the order of its elements in memory, the first half and the second, and
// from there back.
template <int... lane>
MAKEMORE_EXT_INLINE Group<BFloat16> interleave(const Group<BFloat16>& group,
                                               std::integer_sequence<int, lane...>) {
  constexpr int kCount = sizeof...(lane);
  return {{shuffle<lane / 2 + lane % 2 * kCount...>(group.of[0], group.of[1]),
           shuffle<(lane + kCount) / 2 + lane % 2 * kCount...>(group.of[0], group.of[1])}};
}
template <int... lane>
MAKEMORE_EXT_INLINE Group<BFloat16> separate(const Group<BFloat16>& group,
                                             std::integer_sequence<int, lane...>) {
  return {{shuffle<2 * lane...>(group.of[0], group.of[1]),
           shuffle<2 * lane + 1 ...>(group.of[0], group.of[1])}};
}

template <typename T>
MAKEMORE_EXT_INLINE Group<T> in_memory_order(const Group<T>& group) {
  if constexpr (kGroupVectors<T> == 1) {
    return group;
  } else {
    return interleave(group, LaneSequence<float>());
  }
}

// Values of neighbouring elements, one for each of a group, in the order of its vectors.
template <typename T>
MAKEMORE_EXT_INLINE Group<T> load_values(const Compute<T>* values) {
  Group<T> group;
  for (int v = 0; v < kGroupVectors<T>; ++v) {
    group.of[v] = load(values + v * kLanes<T>);
  }
  return group;
}
template <typename T>
MAKEMORE_EXT_INLINE void store_values(Compute<T>* values, const Group<T>& group) {
  for (int v = 0; v < kGroupVectors<T>; ++v) {
    store(values + v * kLanes<T>, group.of[v]);
  }
}

// Brings them, whole groups, from the order of the elements in memory to that of the vectors.
template <typename T>
inline void to_vector_order(Compute<T>* values, int64_t count) {
  if constexpr (kGroupVectors<T> > 1) {
    for (int64_t i = 0; i < count; i += kGroup<T>) {
      store_values<T>(values + i, separate(load_values<T>(values + i), LaneSequence<float>()));
    }
  }
}

// Whether the lanes of one vector of a group are among its first `count` elements.
template <typename T>
MAKEMORE_EXT_INLINE auto is_inside(int v, int64_t count) {
  using Lane = Bits<Compute<T>>;
  return lane_numbers<Compute<T>>() * Lane(kGroupVectors<T>) + Lane(v) < Lane(count);
}

// Sixteen-bit patterns of a group of BFloat16.
typedef uint16_t GroupPatterns __attribute__((vector_size(MAKEMORE_EXT_VECTOR_BYTES)));

inline constexpr int32_t kHighHalf = static_cast<int32_t>(0xffff0000);

// Two floats rounded to the nearest, ties to even: of the patterns of their high halves, those are
// one more whose low half is more than 0x8000, or just that where the high half is odd.
MAKEMORE_EXT_INLINE GroupPatterns round_pairs(Patterns even, Patterns odd) {
  const auto high = bit_cast<GroupPatterns>((even >> 16 & 0xffff) | (odd & kHighHalf));
  const auto low = bit_cast<GroupPatterns>((even & 0xffff) | (odd << 16));
  const GroupPatterns most = 0x8000 - (high & 1);
  // Patterns of all ones are NaN, which another one would make 0.
  return low > most && (high | 0x8000) != 0xffff ? high + 1 : high;
}

// The first `count` elements of a group, the others 0, or all of them.
template <bool partial, typename T>
MAKEMORE_EXT_INLINE Group<T> load_group(const T* source, int64_t count) {
  if constexpr (kGroupVectors<T> == 1) {
    return {{load_lanes<partial>(source, count, Compute<T>(0))}};
  } else {
    Patterns pairs;
    if constexpr (!partial) {
      std::memcpy(&pairs, source, sizeof(pairs));
    } else {
#ifdef __AVX512F__
      pairs = bit_cast<Patterns>(_mm512_maskz_loadu_epi16((uint32_t{1} << count) - 1, source));
#else
      T elements[kGroup<T>] = {};
      for (int64_t i = 0; i < count; ++i) {
        elements[i] = source[i];
      }
      std::memcpy(&pairs, elements, sizeof(pairs));
#endif
    }
    return {{bit_cast<Vec<float>>(pairs << 16), bit_cast<Vec<float>>(pairs & kHighHalf)}};
  }
}

// A whole group is stored past the caches where `streamed`; see store_through().
template <bool partial, bool streamed, typename T>
MAKEMORE_EXT_INLINE void store_group(T* destination, const Group<T>& group, int64_t count) {
  if constexpr (kGroupVectors<T> == 1) {
    store_lanes_through<partial, streamed>(destination, group.of[0], count);
  } else {
    const GroupPatterns rounded =
        round_pairs(bit_cast<Patterns>(group.of[0]), bit_cast<Patterns>(group.of[1]));
    if constexpr (!partial) {
      store_bits<streamed>(destination, rounded);
    } else {
#ifdef __AVX512F__
      _mm512_mask_storeu_epi16(destination, (uint32_t{1} << count) - 1, bit_cast<__m512i>(rounded));
#else
      T elements[kGroup<T>];
      std::memcpy(elements, &rounded, sizeof(rounded));
      for (int64_t i = 0; i < count; ++i) {
        destination[i] = elements[i];
      }
#endif
    }
  }
}

// Calls body(partial, first element, elements) for the groups of [begin, end), of which the last
// may be a part of one.
template <typename T, typename Body>
MAKEMORE_EXT_INLINE void for_each_group(int64_t begin, int64_t end, const Body& body) {
  int64_t i = begin;
  for (; i + kGroup<T> <= end; i += kGroup<T>) {
    body(std::false_type{}, i, kGroup<T>);
  }
  if (i < end) {
    body(std::true_type{}, i, end - i);
  }
}

// Groups that fill a line of the cache, where there are registers for them.
template <typename T>
inline constexpr int kLineGroups = std::is_same_v<T, Compute<T>> && kGroupBytes<T> < 64 ? 2 : 1;

// Whether rows that are so far apart share so few places of a first-level cache that a line is gone
// before all of it is read, unless that is done at once.
template <typename T>
inline bool share_places(int64_t stride) {
  return stride * static_cast<int64_t>(sizeof(T)) % 2048 == 0;
}

// Calls body(partial, groups, first element, elements of a group), `groups` as a type: kLineGroups
// at a time where `by_lines`, at last or else one.
template <typename T, typename Body>
MAKEMORE_EXT_INLINE void for_each_line(int64_t begin, int64_t end, bool by_lines,
                                       const Body& body) {
  constexpr int kGroups = kLineGroups<T>;
  int64_t i = begin;
  if constexpr (kGroups > 1) {
    for (; by_lines && i + kGroups * kGroup<T> <= end; i += kGroups * kGroup<T>) {
      body(std::false_type{}, std::integral_constant<int, kGroups>{}, i, kGroup<T>);
    }
  }
  for_each_group<T>(i, end, [&](auto partial, int64_t first, int64_t count) {
    body(partial, std::integral_constant<int, 1>{}, first, count);
  });
}

// The same for [0, count), to be stored at `destination`: with `streamed`, whole groups are aligned
// for that and the first may be a part of one too. See can_stream().
template <bool streamed, typename T, typename Body>
MAKEMORE_EXT_INLINE void for_each_stored_group(const T* destination, int64_t count,
                                               const Body& body) {
  int64_t begin = 0;
  if constexpr (streamed) {
    begin = std::min(count, elements_to_alignment(destination, kGroupBytes<T>));
    if (begin > 0) {
      body(std::true_type{}, int64_t{0}, begin);
    }
  }
  for_each_group<T>(begin, count, body);
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
