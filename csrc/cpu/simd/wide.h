// Vectors widened to double, for sums.
#pragma once

#include <cstdint>
#include <cstring>

#include "reduce.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// A Vec<T> widened to double, in as many vectors as that takes. Sums are kept in it.
template <typename T>
struct Wide;

template <>
struct Wide<double> {
  Vec<double> part{};

  static Wide of(double value) { return {broadcast(value)}; }
  static Wide from(Vec<double> value) { return {value}; }
  static Wide load(const double* source) { return {cpu::MAKEMORE_EXT_CAPABILITY::load(source)}; }
  void store(double* destination) const { cpu::MAKEMORE_EXT_CAPABILITY::store(destination, part); }

  Wide operator+(Wide other) const { return {part + other.part}; }
  Wide operator-(Wide other) const { return {part - other.part}; }
  Wide operator*(Wide other) const { return {part * other.part}; }
  double lane(int64_t index) const { return part[index]; }
  void set_lane(int64_t index, double value) { part[index] = value; }
  double sum() const { return horizontal_sum<double>(part); }
};

template <>
struct Wide<float> {
  Vec<double> low{};
  Vec<double> high{};

  static Wide of(double value) { return {broadcast(value), broadcast(value)}; }
  // The compiler would convert in parts of half the width.
  static Wide from(Vec<float> value) {
#if defined(__AVX512F__)
    const __m512 all = bit_cast<__m512>(value);
    return {bit_cast<Vec<double>>(_mm512_cvtps_pd(_mm512_castps512_ps256(all))),
            bit_cast<Vec<double>>(_mm512_cvtps_pd(_mm512_extractf32x8_ps(all, 1)))};
#elif defined(__AVX__)
    const __m256 all = bit_cast<__m256>(value);
    return {bit_cast<Vec<double>>(_mm256_cvtps_pd(_mm256_castps256_ps128(all))),
            bit_cast<Vec<double>>(_mm256_cvtps_pd(_mm256_extractf128_ps(all, 1)))};
#else
    return {Vec<double>{value[0], value[1]}, Vec<double>{value[2], value[3]}};
#endif
  }

  static Wide load(const double* source) {
    return {cpu::MAKEMORE_EXT_CAPABILITY::load(source),
            cpu::MAKEMORE_EXT_CAPABILITY::load(source + kLanes<double>)};
  }
  void store(double* destination) const {
    cpu::MAKEMORE_EXT_CAPABILITY::store(destination, low);
    cpu::MAKEMORE_EXT_CAPABILITY::store(destination + kLanes<double>, high);
  }

  Wide operator+(Wide other) const { return {low + other.low, high + other.high}; }
  Wide operator-(Wide other) const { return {low - other.low, high - other.high}; }
  Wide operator*(Wide other) const { return {low * other.low, high * other.high}; }
  double lane(int64_t index) const {
    return index < kLanes<double> ? low[index] : high[index - kLanes<double>];
  }
  void set_lane(int64_t index, double value) {
    (index < kLanes<double> ? low : high)[index % kLanes<double>] = value;
  }
  double sum() const { return horizontal_sum<double>(low + high); }
};

// As many values as a vector of doubles has.
MAKEMORE_EXT_INLINE Vec<double> load_doubles(const double* source) {
  return load(source);
}

MAKEMORE_EXT_INLINE Vec<double> load_doubles(const float* source) {
#if defined(__AVX512F__)
  return bit_cast<Vec<double>>(_mm512_cvtps_pd(_mm256_loadu_ps(source)));
#elif defined(__AVX__)
  return bit_cast<Vec<double>>(_mm256_cvtps_pd(_mm_loadu_ps(source)));
#else
  return Vec<double>{source[0], source[1]};
#endif
}

// Rounded again.
MAKEMORE_EXT_INLINE Vec<double> narrow(Wide<double> wide) {
  return wide.part;
}

MAKEMORE_EXT_INLINE Vec<float> narrow(Wide<float> wide) {
#if defined(__AVX512F__)
  const __m256 low = _mm512_cvtpd_ps(bit_cast<__m512d>(wide.low));
  const __m256 high = _mm512_cvtpd_ps(bit_cast<__m512d>(wide.high));
  return bit_cast<Vec<float>>(_mm512_insertf32x8(_mm512_castps256_ps512(low), high, 1));
#elif defined(__AVX__)
  const __m128 low = _mm256_cvtpd_ps(bit_cast<__m256d>(wide.low));
  const __m128 high = _mm256_cvtpd_ps(bit_cast<__m256d>(wide.high));
  return bit_cast<Vec<float>>(_mm256_insertf128_ps(_mm256_castps128_ps256(low), high, 1));
#else
  typedef float Half __attribute__((vector_size(MAKEMORE_EXT_VECTOR_BYTES / 2)));
  const Half halves[2] = {__builtin_convertvector(wide.low, Half),
                          __builtin_convertvector(wide.high, Half)};
  Vec<float> result;
  std::memcpy(&result, halves, sizeof(result));
  return result;
#endif
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
