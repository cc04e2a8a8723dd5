// SIMD vectors over the compiler's own vector types: one source for every instruction set. The
// including file sets the width with MAKEMORE_EXT_VECTOR_BYTES.
//
// A vector holds float or double. Half and BFloat16 are widened to float as they are loaded, which
// is exact, and rounded to the nearest, ties to even, as they are stored.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#ifdef __AVX__
#include <immintrin.h>
#endif

#include "../../dtypes.h"

// Functions of vectors are part of their callers, whatever the compiler thinks of their size:
// called, they would pass every vector through memory.
#define MAKEMORE_EXT_INLINE [[gnu::always_inline]] inline

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(MAKEMORE_EXT_VECTOR_BYTES)));
};

template <typename T>
using Vec = typename VectorOf<T>::type;

// Lanes of the vector that elements of T are computed in.
template <typename T>
inline constexpr int64_t kLanes = MAKEMORE_EXT_VECTOR_BYTES / sizeof(Compute<T>);

// The signed integer as wide as T: what a comparison of Vec<T> yields, and how its bits are read.
template <typename T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

// Nothing is subtracted, which takes no instruction; 0 added would take one, as -0 becomes 0.
template <typename T>
MAKEMORE_EXT_INLINE Vec<T> broadcast(T value) {
  return value - Vec<T>{};
}

template <typename To, typename From>
MAKEMORE_EXT_INLINE To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
}

// Sixteen-bit patterns of as many lanes as Vec<float> has, one in the low half of a 32-bit lane.
using Patterns = Vec<int32_t>;
typedef uint16_t NarrowPatterns __attribute__((vector_size(MAKEMORE_EXT_VECTOR_BYTES / 2)));

// The compiler would widen in parts of half the width.
MAKEMORE_EXT_INLINE Patterns load_patterns(const void* source) {
  NarrowPatterns narrow;
  std::memcpy(&narrow, source, sizeof(narrow));
#if defined(__AVX512F__)
  return bit_cast<Patterns>(_mm512_cvtepu16_epi32(bit_cast<__m256i>(narrow)));
#elif defined(__AVX2__)
  return bit_cast<Patterns>(_mm256_cvtepu16_epi32(bit_cast<__m128i>(narrow)));
#else
  return __builtin_convertvector(narrow, Patterns);
#endif
}

MAKEMORE_EXT_INLINE void store_patterns(void* destination, Patterns patterns) {
  const NarrowPatterns narrow = __builtin_convertvector(patterns, NarrowPatterns);
  std::memcpy(destination, &narrow, sizeof(narrow));
}

// A half's exponent is biased by 15, a float's by 127: read as a float, its bits stand for a value
// 2^112 too small, subnormal or not.
MAKEMORE_EXT_INLINE Vec<float> half_to_float(Patterns half) {
  const Patterns magnitude = (half & 0x7fff) << 13;
  const Vec<float> finite = bit_cast<Vec<float>>(magnitude) * 0x1p112f;
  const Vec<float> special = bit_cast<Vec<float>>(magnitude | 0x7f800000);
  const Vec<float> unsigned_value = magnitude >= 0x0f800000 ? special : finite;
  return bit_cast<Vec<float>>(bit_cast<Patterns>(unsigned_value) | (half & 0x8000) << 16);
}

MAKEMORE_EXT_INLINE Patterns float_to_half(Vec<float> value) {
  const Patterns bits = bit_cast<Patterns>(value);
  const Patterns magnitude = bits & 0x7fffffff;
  // Adding just under half of the last place kept, or half where that is odd, rounds ties to even.
  const Patterns normal = (magnitude - 0x38000000 + 0xfff + (magnitude >> 13 & 1)) >> 13;
  // Below 2^-14 the result is subnormal: its last place is that of 0.5f, which the sum rounds to.
  const Patterns subnormal =
      bit_cast<Patterns>(bit_cast<Vec<float>>(magnitude) + 0.5f) - bit_cast<int32_t>(0.5f);
  Patterns result = magnitude < 0x38800000 ? subnormal : normal;
  result = magnitude >= 0x47800000 ? Patterns{} + 0x7c00 : result;  // 2^16 and infinity
  result = magnitude > 0x7f800000 ? Patterns{} + 0x7e00 : result;   // NaN
  return result | (bits >> 16 & 0x8000);
}

MAKEMORE_EXT_INLINE Vec<float> bfloat16_to_float(Patterns value) {
  return bit_cast<Vec<float>>(value << 16);
}

MAKEMORE_EXT_INLINE Patterns float_to_bfloat16(Vec<float> value) {
  const Patterns bits = bit_cast<Patterns>(value);
  const Patterns rounded = (bits + 0x7fff + (bits >> 16 & 1)) >> 16;
  return value == value ? rounded : Patterns{} + 0x7fc0;
}

template <typename T>
MAKEMORE_EXT_INLINE Vec<Compute<T>> load(const T* source) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    return bfloat16_to_float(load_patterns(source));
  } else if constexpr (std::is_same_v<T, Half>) {
#if defined(__AVX512F__)
    __m256i half;
    std::memcpy(&half, source, sizeof(half));
    return bit_cast<Vec<float>>(_mm512_cvtph_ps(half));
#elif defined(__F16C__)
    __m128i half;
    std::memcpy(&half, source, sizeof(half));
    return bit_cast<Vec<float>>(_mm256_cvtph_ps(half));
#else
    return half_to_float(load_patterns(source));
#endif
  } else {
    Vec<T> result;
    std::memcpy(&result, source, sizeof(result));
    return result;
  }
}

template <typename T>
MAKEMORE_EXT_INLINE void store(T* destination, Vec<Compute<T>> value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    store_patterns(destination, float_to_bfloat16(value));
  } else if constexpr (std::is_same_v<T, Half>) {
#if defined(__AVX512F__)
    const __m256i half = _mm512_cvtps_ph(bit_cast<__m512>(value), _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(destination, &half, sizeof(half));
#elif defined(__F16C__)
    const __m128i half = _mm256_cvtps_ph(bit_cast<__m256>(value), _MM_FROUND_TO_NEAREST_INT);
    std::memcpy(destination, &half, sizeof(half));
#else
    store_patterns(destination, float_to_half(value));
#endif
  } else {
    std::memcpy(destination, &value, sizeof(value));
  }
}

#ifdef __AVX512F__
MAKEMORE_EXT_INLINE __mmask16 first_lanes(int64_t count) {
  return static_cast<__mmask16>((1u << count) - 1);
}
#endif

// 0, 1, 2, ...
template <typename T>
MAKEMORE_EXT_INLINE Vec<Bits<T>> lane_numbers() {
  Vec<Bits<T>> result{};
  for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
    result[lane] = static_cast<Bits<T>>(lane);
  }
  return result;
}

// The first `count` lanes from memory, the others `fill`.
template <typename T>
MAKEMORE_EXT_INLINE Vec<Compute<T>> load_partial(const T* source, int64_t count, Compute<T> fill) {
  using C = Compute<T>;
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    const __m512 others = _mm512_set1_ps(fill);
    return bit_cast<Vec<C>>(_mm512_mask_loadu_ps(others, first_lanes(count), source));
  } else if constexpr (std::is_same_v<T, double>) {
    const __m512d others = _mm512_set1_pd(fill);
    return bit_cast<Vec<C>>(_mm512_mask_loadu_pd(others, first_lanes(count), source));
  } else {
    T lanes[kLanes<T>];
    const __m256i bits = _mm256_maskz_loadu_epi16(first_lanes(count), source);
    std::memcpy(lanes, &bits, sizeof(bits));
    return lane_numbers<C>() < Bits<C>(count) ? load(lanes) : broadcast(fill);
  }
#else
  const auto inside = lane_numbers<C>() < Bits<C>(count);
#ifdef __AVX__
  if constexpr (std::is_same_v<T, float>) {
    const auto loaded = _mm256_maskload_ps(source, bit_cast<__m256i>(inside));
    return inside ? bit_cast<Vec<C>>(loaded) : broadcast(fill);
  } else if constexpr (std::is_same_v<T, double>) {
    const auto loaded = _mm256_maskload_pd(source, bit_cast<__m256i>(inside));
    return inside ? bit_cast<Vec<C>>(loaded) : broadcast(fill);
  }
#endif
  T lanes[kLanes<T>] = {};
  for (int64_t lane = 0; lane < count; ++lane) {
    lanes[lane] = source[lane];
  }
  return inside ? load(lanes) : broadcast(fill);
#endif
}

template <typename T>
MAKEMORE_EXT_INLINE void store_partial(T* destination, Vec<Compute<T>> value, int64_t count) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, float>) {
    _mm512_mask_storeu_ps(destination, first_lanes(count), bit_cast<__m512>(value));
  } else if constexpr (std::is_same_v<T, double>) {
    _mm512_mask_storeu_pd(destination, first_lanes(count), bit_cast<__m512d>(value));
  } else {
    T lanes[kLanes<T>];
    store(lanes, value);
    __m256i bits;
    std::memcpy(&bits, lanes, sizeof(bits));
    _mm256_mask_storeu_epi16(destination, first_lanes(count), bits);
  }
#else
#ifdef __AVX__
  const auto inside = lane_numbers<Compute<T>>() < Bits<Compute<T>>(count);
  if constexpr (std::is_same_v<T, float>) {
    _mm256_maskstore_ps(destination, bit_cast<__m256i>(inside), bit_cast<__m256>(value));
    return;
  } else if constexpr (std::is_same_v<T, double>) {
    _mm256_maskstore_pd(destination, bit_cast<__m256i>(inside), bit_cast<__m256d>(value));
    return;
  }
#endif
  T lanes[kLanes<T>];
  store(lanes, value);
  for (int64_t lane = 0; lane < count; ++lane) {
    destination[lane] = lanes[lane];
  }
#endif
}

// A whole vector, or its first `count` lanes: for a loop body that also serves the remainder.
template <bool partial, typename T>
MAKEMORE_EXT_INLINE Vec<Compute<T>> load_lanes(const T* source, int64_t count, Compute<T> fill) {
  if constexpr (partial) {
    return load_partial(source, count, fill);
  } else {
    return load(source);
  }
}

template <bool partial, typename T>
MAKEMORE_EXT_INLINE void store_lanes(T* destination, Vec<Compute<T>> value, int64_t count) {
  if constexpr (partial) {
    store_partial(destination, value, count);
  } else {
    store(destination, value);
  }
}

// Calls body(partial, first element, elements), `partial` as a type, for the vectors of `size`
// elements, of which the last may be a part of one.
template <typename T, typename Body>
MAKEMORE_EXT_INLINE void for_each_vector(int64_t size, const Body& body) {
  int64_t i = 0;
  for (; i + kLanes<T> <= size; i += kLanes<T>) {
    body(std::false_type{}, i, kLanes<T>);
  }
  if (i < size) {
    body(std::true_type{}, i, size - i);
  }
}

// One element, converted as a vector's are.
template <typename T>
MAKEMORE_EXT_INLINE Compute<T> load_one(const T* source) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return *source;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    uint16_t bits;
    std::memcpy(&bits, source, sizeof(bits));
    return bit_cast<float>(static_cast<uint32_t>(bits) << 16);
  } else {
    return load_partial(source, 1, 0)[0];
  }
}

template <typename T>
MAKEMORE_EXT_INLINE void store_one(T* destination, Compute<T> value) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    *destination = value;
  } else {
    store_partial(destination, broadcast(value), 1);
  }
}

// a > b ? a : b, so that a NaN in either yields `b`: the running maximum belongs in `a` where a NaN
// must be kept, in `b` where it must be dropped. One instruction, which the compiler does not
// see in the comparison.
template <typename T>
MAKEMORE_EXT_INLINE Vec<T> max(Vec<T> a, Vec<T> b) {
  [[maybe_unused]] constexpr bool is_float = std::is_same_v<T, float>;
#if defined(__AVX512F__)
  if constexpr (is_float) {
    return bit_cast<Vec<T>>(_mm512_max_ps(bit_cast<__m512>(a), bit_cast<__m512>(b)));
  } else {
    return bit_cast<Vec<T>>(_mm512_max_pd(bit_cast<__m512d>(a), bit_cast<__m512d>(b)));
  }
#elif defined(__AVX__)
  if constexpr (is_float) {
    return bit_cast<Vec<T>>(_mm256_max_ps(bit_cast<__m256>(a), bit_cast<__m256>(b)));
  } else {
    return bit_cast<Vec<T>>(_mm256_max_pd(bit_cast<__m256d>(a), bit_cast<__m256d>(b)));
  }
#else
  return a > b ? a : b;
#endif
}

// Whether a lane is at least that much; a NaN is not.
template <typename T>
MAKEMORE_EXT_INLINE bool any_at_least(Vec<T> x, T least) {
  [[maybe_unused]] constexpr bool is_float = std::is_same_v<T, float>;
#if defined(__AVX512F__)
  if constexpr (is_float) {
    return _mm512_cmp_ps_mask(bit_cast<__m512>(x), _mm512_set1_ps(least), _CMP_GE_OQ) != 0;
  } else {
    return _mm512_cmp_pd_mask(bit_cast<__m512d>(x), _mm512_set1_pd(least), _CMP_GE_OQ) != 0;
  }
#elif defined(__AVX__)
  if constexpr (is_float) {
    const __m256 at_least = _mm256_cmp_ps(bit_cast<__m256>(x), _mm256_set1_ps(least), _CMP_GE_OQ);
    return _mm256_movemask_ps(at_least) != 0;
  } else {
    const __m256d at_least = _mm256_cmp_pd(bit_cast<__m256d>(x), _mm256_set1_pd(least), _CMP_GE_OQ);
    return _mm256_movemask_pd(at_least) != 0;
  }
#else
  const auto words = bit_cast<Vec<int64_t>>(x >= least);
  return (words[0] | words[1]) != 0;
#endif
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
