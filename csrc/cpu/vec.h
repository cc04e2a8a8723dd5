// SIMD vectors and the elementary functions the kernels need, over the compiler's own vector
// types: one source for every instruction set. The including file sets the width with
// MAKEMORE_EXT_VECTOR_BYTES.
//
// Error bounds (tests/test_vec.py checks every float32):
//   exp  <= 1.1 ulp in float, <= 1.5 ulp in double
//   tanh <= 1.5 ulp in float, <= 2.5 ulp in double
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <typename T>
struct VectorOf {
  typedef T type __attribute__((vector_size(MAKEMORE_EXT_VECTOR_BYTES)));
  typedef T half __attribute__((vector_size(MAKEMORE_EXT_VECTOR_BYTES / 2)));
};

template <typename T>
using Vec = typename VectorOf<T>::type;

template <typename T>
inline constexpr int64_t kLanes = MAKEMORE_EXT_VECTOR_BYTES / sizeof(T);

// The signed integer as wide as T: what a comparison of Vec<T> yields, and how its bits are read.
template <typename T>
using Bits = std::conditional_t<sizeof(T) == 4, int32_t, int64_t>;

template <typename T>
inline Vec<T> broadcast(T value) {
  return Vec<T>{} + value;
}

template <typename T>
inline Vec<T> load(const T* source) {
  Vec<T> result;
  std::memcpy(&result, source, sizeof(result));
  return result;
}

// The first `count` lanes from memory, the others `fill`.
template <typename T>
inline Vec<T> load_partial(const T* source, int64_t count, T fill) {
  Vec<T> result = broadcast(fill);
  for (int64_t lane = 0; lane < count; ++lane) {
    result[lane] = source[lane];
  }
  return result;
}

template <typename T>
inline void store(T* destination, Vec<T> value) {
  std::memcpy(destination, &value, sizeof(value));
}

template <typename T>
inline void store_partial(T* destination, Vec<T> value, int64_t count) {
  for (int64_t lane = 0; lane < count; ++lane) {
    destination[lane] = value[lane];
  }
}

template <typename To, typename From>
inline To bit_cast(From value) {
  static_assert(sizeof(To) == sizeof(From));
  To result;
  std::memcpy(&result, &value, sizeof(result));
  return result;
}

// NaN in `b` yields `b`, NaN in `a` alone yields `b` too: the running maximum belongs in `a`
// where a NaN must be kept, in `b` where it must be dropped.
template <typename T>
inline Vec<T> max(Vec<T> a, Vec<T> b) {
  return a > b ? a : b;
}

template <typename T>
inline T horizontal_max(Vec<T> value) {
  T result = value[0];
  for (int64_t lane = 1; lane < kLanes<T>; ++lane) {
    result = result > value[lane] ? result : value[lane];
  }
  return result;
}

// A Vec<T> widened to double, in as many vectors as that takes. Sums are kept in it.
template <typename T>
struct Wide;

template <>
struct Wide<double> {
  Vec<double> part{};

  static Wide of(double value) { return {broadcast(value)}; }
  static Wide from(Vec<double> value) { return {value}; }

  Wide operator+(Wide other) const { return {part + other.part}; }
  Wide operator-(Wide other) const { return {part - other.part}; }
  Wide operator*(Wide other) const { return {part * other.part}; }
  double lane(int64_t index) const { return part[index]; }
  void set_lane(int64_t index, double value) { part[index] = value; }
  double sum() const {
    double result = part[0];
    for (int64_t lane = 1; lane < kLanes<double>; ++lane) {
      result += part[lane];
    }
    return result;
  }
};

template <>
struct Wide<float> {
  Vec<double> low{};
  Vec<double> high{};

  static Wide of(double value) { return {broadcast(value), broadcast(value)}; }
  static Wide from(Vec<float> value) {
    typename VectorOf<float>::half halves[2];
    std::memcpy(halves, &value, sizeof(value));
    return {__builtin_convertvector(halves[0], Vec<double>),
            __builtin_convertvector(halves[1], Vec<double>)};
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
  double sum() const { return Wide<double>{low + high}.sum(); }
};

// What exp and tanh need to know of a type. The polynomials are minimax fits of the relative
// error; adding and subtracting `round` = 1.5 * 2^(mantissa bits) leaves the nearest integer.
template <typename T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float round = 0x1.8p23f;
  static constexpr float ln2_high = 0x1.62e4p-1f;  // 16 zero bits, so that n * ln2_high is exact
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_lowest = -104.0f;  // below, exp rounds to 0
  static constexpr float exp_highest = 89.0f;   // above, exp is infinite
  static constexpr int mantissa_bits = 23;
  static constexpr int exponent_bias = 127;
  // (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2, error of exp 3.1e-9
  static constexpr float exp[] = {0.499999934483f, 0.166665206337f, 0.0416683880085f,
                                  0.00836871679671f, 0.00138145990354f};
  // (tanh(x) - x) / x^3 in x^2 for |x| <= 0.65, error of tanh 2.6e-10
  static constexpr float tanh[] = {-0.33333329437f,  0.133331519743f,    -0.0539399175721f,
                                   0.0216632728649f, -0.00808532039212f, 0.0020593148664f};
};

template <>
struct Constants<double> {
  static constexpr double round = 0x1.8p52;
  static constexpr double ln2_high = 0x1.62e42feep-1;  // 21 zero bits
  static constexpr double ln2_low = 0x1.a39ef35793c76p-33;
  static constexpr double exp_lowest = -746.0;
  static constexpr double exp_highest = 710.0;
  static constexpr int mantissa_bits = 52;
  static constexpr int exponent_bias = 1023;
  // error of exp 3.6e-18
  static constexpr double exp[] = {0.50000000000000106264,   0.16666666666666412508,
                                   0.041666666666530164735,  0.0083333333334944782697,
                                   0.0013888888943628528955, 0.00019841269506529151596,
                                   2.4801493100505611527e-5, 2.7557586429014112382e-6,
                                   2.7630247827432852356e-7, 2.5000041132570032218e-8};
  // error of tanh 3.8e-20
  static constexpr double tanh[] = {
      -0.33333333333333331101,    0.13333333333332914344,      -0.053968253967978523415,
      0.021869488527017014879,    -0.0088632353506658205653,   0.0035921257709554983733,
      -0.0014558149668599894692,  0.0005899111547782717781,    -0.00023863553552596371507,
      0.000095427556633962253531, -0.000036127751877769841634, 0.000011349542941187281157,
      -2.0960647242689418516e-6};
};

// p(x) = coefficients[0] + coefficients[1] x + ..., by Horner's rule.
template <typename T, std::size_t N>
inline Vec<T> polynomial(Vec<T> x, const T (&coefficients)[N]) {
  Vec<T> result = broadcast(coefficients[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) {
    result = result * x + coefficients[i];
  }
  return result;
}

// exp(x) = 2^n exp(r) with n the integer nearest to x / ln 2, so |r| <= ln(2)/2. 2^n is applied as
// two factors: n reaches -150, beyond the exponents a single one can hold. NaN stays NaN.
template <typename T>
inline Vec<T> exp(Vec<T> x) {
  using K = Constants<T>;
  constexpr T log2_e = T(1.44269504088896340736);
  x = x < K::exp_lowest ? broadcast(K::exp_lowest) : x;
  x = x > K::exp_highest ? broadcast(K::exp_highest) : x;
  const Vec<T> shifted = x * log2_e + K::round;
  const Vec<T> n = shifted - K::round;
  const Vec<T> r = (x - n * K::ln2_high) - n * K::ln2_low;
  const Vec<T> exp_r = r * r * polynomial(r, K::exp) + r + T(1);
  const Vec<Bits<T>> exponent =
      bit_cast<Vec<Bits<T>>>(shifted) - bit_cast<Vec<Bits<T>>>(broadcast(K::round));
  const Vec<Bits<T>> half = exponent >> 1;
  const Vec<T> scale_1 = bit_cast<Vec<T>>((half + K::exponent_bias) << K::mantissa_bits);
  const Vec<T> scale_2 = bit_cast<Vec<T>>((exponent - half + K::exponent_bias) << K::mantissa_bits);
  return exp_r * scale_1 * scale_2;
}

// Near 0 an odd polynomial, since 1 - 2 / (exp(2|x|) + 1) cancels there; elsewhere that formula.
template <typename T>
inline Vec<T> tanh(Vec<T> x) {
  const Vec<T> square = x * x;
  const Vec<T> near_zero = x + x * square * polynomial(square, Constants<T>::tanh);
  const Vec<T> magnitude = x < T(0) ? -x : x;
  const Vec<T> far = T(1) - T(2) / (exp<T>(magnitude + magnitude) + T(1));
  const Vec<T> signed_far = x < T(0) ? -far : far;
  return magnitude < T(0.65) ? near_zero : signed_far;
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
