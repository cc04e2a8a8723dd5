// The elementary functions the kernels need, for vectors of float or double.
//
// Error bounds (tests/native/test_elementary.py checks every float32):
//   exp  <= 1.1 ulp in float, <= 1.5 ulp in double; exp_nonpositive the same
//   log  <= 1.0 ulp in float, <= 1.0 ulp in double
//   tanh <= 1.5 ulp in float (1.0 ulp from a table, with AVX-512), <= 2.5 ulp in double
#pragma once

#include <cmath>
#include <cstddef>
#include <limits>

#include "tanh_table.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// What the functions need to know of a type. The polynomials are minimax fits of the relative
// error; adding and subtracting `round` = 1.5 * 2^(mantissa bits) leaves the nearest integer. Added
// to the exponent's bias, it leaves that integer, biased, in the sum's low bits: shifted up by the
// mantissa's bits, they are the power of two.
template <typename T>
struct Constants;

template <>
struct Constants<float> {
  static constexpr float round = 0x1.8p23f;
  static constexpr float ln2_high = 0x1.62e4p-1f;  // 16 zero bits, so that n * ln2_high is exact
  static constexpr float ln2_low = 0x1.7f7d1cp-20f;
  static constexpr float exp_lowest = -104.0f;  // below, exp rounds to 0
  static constexpr float exp_lowest_normal = -87.33654f;
  static constexpr float exp_highest = 89.0f;  // above, exp is infinite
  static constexpr int mantissa_bits = 23;
  static constexpr int exponent_bias = 127;
  // (exp(r) - 1 - r) / r^2 for |r| <= ln(2)/2, error of exp 3.1e-9
  static constexpr float exp[] = {0.499999934483f, 0.166665206337f, 0.0416683880085f,
                                  0.00836871679671f, 0.00138145990354f};
  // (log((1 + s) / (1 - s)) - 2 s) / s^3 in s^2 for |s| <= 0.1716, error of log 2.8e-9
  static constexpr float log[] = {0.66666685045f, 0.39988778282f, 0.29580053043f};
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
  static constexpr double exp_lowest_normal = -708.3964185322641;
  static constexpr double exp_highest = 710.0;
  static constexpr int mantissa_bits = 52;
  static constexpr int exponent_bias = 1023;
  // error of exp 3.6e-18
  static constexpr double exp[] = {0.50000000000000106264,   0.16666666666666412508,
                                   0.041666666666530164735,  0.0083333333334944782697,
                                   0.0013888888943628528955, 0.00019841269506529151596,
                                   2.4801493100505611527e-5, 2.7557586429014112382e-6,
                                   2.7630247827432852356e-7, 2.5000041132570032218e-8};
  // error of log 3.1e-20
  static constexpr double log[] = {0.66666666666666666465, 0.40000000000000877606,
                                   0.28571428570803230015, 0.22222222391800469329,
                                   0.181817956308847532,   0.15386240205813477879,
                                   0.13268759668560612686, 0.13086767009948173713};
  // error of tanh 3.8e-20
  static constexpr double tanh[] = {
      -0.33333333333333331101,    0.13333333333332914344,      -0.053968253967978523415,
      0.021869488527017014879,    -0.0088632353506658205653,   0.0035921257709554983733,
      -0.0014558149668599894692,  0.0005899111547782717781,    -0.00023863553552596371507,
      0.000095427556633962253531, -0.000036127751877769841634, 0.000011349542941187281157,
      -2.0960647242689418516e-6};
};

// 1 / x for normal x, to within two units in the last place: with 512-bit vectors a division takes
// as long as ten multiplications.
template <typename T>
MAKEMORE_EXT_INLINE Vec<T> reciprocal(Vec<T> x) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<T, float>) {
    const Vec<T> estimate = bit_cast<Vec<T>>(_mm512_rcp14_ps(bit_cast<__m512>(x)));
    return estimate + estimate * (T(1) - x * estimate);
  }
#endif
  return T(1) / x;
}

// 1 / sqrt(x), to within two units in the last place: with 512-bit vectors a root and a division
// take as long as fifty multiplications, two of Newton's steps from 14 bits as long as ten.
MAKEMORE_EXT_INLINE Vec<double> inverse_sqrt(Vec<double> x) {
#ifdef __AVX512F__
  const Vec<double> half = 0.5 * x;
  Vec<double> result = bit_cast<Vec<double>>(_mm512_rsqrt14_pd(bit_cast<__m512d>(x)));
  for (int step = 0; step < 2; ++step) {
    result += result * (0.5 - half * result * result);
  }
  // 0 and infinity leave the range on the way.
  const __mmask8 is_special = _mm512_fpclass_pd_mask(bit_cast<__m512d>(x), 0x5e);
  if (is_special == 0) {
    return result;
  }
#endif
  for (int64_t lane = 0; lane < kLanes<double>; ++lane) {
    x[lane] = 1 / std::sqrt(x[lane]);
  }
  return x;
}

// p(x) = coefficients[0] + coefficients[1] x + ..., by Horner's rule.
template <typename T, std::size_t N>
MAKEMORE_EXT_INLINE Vec<T> polynomial(Vec<T> x, const T (&coefficients)[N]) {
  Vec<T> result = broadcast(coefficients[N - 1]);
  for (std::size_t i = N - 1; i-- > 0;) {
    result = result * x + coefficients[i];
  }
  return result;
}

// exp(x) = 2^n exp(r) with n the integer nearest to x / ln 2, so |r| <= ln(2)/2.
template <typename T>
struct ReducedExp {
  static constexpr T kBiasedRound = Constants<T>::round + Constants<T>::exponent_bias;

  Vec<T> exp_r;
  Vec<Bits<T>> biased_n;  // in the low bits; those above are of no use

  MAKEMORE_EXT_INLINE explicit ReducedExp(Vec<T> x) {
    using K = Constants<T>;
    constexpr T log2_e = T(1.44269504088896340736);
    const Vec<T> shifted = x * log2_e + kBiasedRound;
    const Vec<T> rounded = shifted - kBiasedRound;
    const Vec<T> r = (x - rounded * K::ln2_high) - rounded * K::ln2_low;
#ifdef __FMA__
    exp_r = (r * polynomial(r, K::exp) + T(1)) * r + T(1);
#else  // products are rounded, and 1 + r is the less exact the sooner it is formed
    exp_r = r * r * polynomial(r, K::exp) + r + T(1);
#endif
    biased_n = bit_cast<Vec<Bits<T>>>(shifted);
  }
  // exp(x) where that is a normal number. Multiplied, not added to the exponent: a NaN stays one.
  MAKEMORE_EXT_INLINE Vec<T> normal() const {
    return exp_r * bit_cast<Vec<T>>(biased_n << Constants<T>::mantissa_bits);
  }
};

// 2^n is applied as two factors: n reaches -150, beyond the exponents a single one can hold. NaN
// stays NaN.
template <typename T>
MAKEMORE_EXT_INLINE Vec<T> exp(Vec<T> x) {
  using K = Constants<T>;
  x = x < K::exp_lowest ? broadcast(K::exp_lowest) : x;
  x = x > K::exp_highest ? broadcast(K::exp_highest) : x;
  const ReducedExp<T> reduced(x);
  const Vec<Bits<T>> n = reduced.biased_n - bit_cast<Bits<T>>(ReducedExp<T>::kBiasedRound);
  const Vec<Bits<T>> half = n >> 1;
  const Vec<T> factor_1 = bit_cast<Vec<T>>((half + K::exponent_bias) << K::mantissa_bits);
  const Vec<T> factor_2 = bit_cast<Vec<T>>((n - half + K::exponent_bias) << K::mantissa_bits);
  return reduced.exp_r * factor_1 * factor_2;
}

// exp(x) for x <= 0, as a softmax needs it, in two thirds of the instructions: a result below the
// smallest normal number is 0. NaN stays NaN.
template <typename T>
MAKEMORE_EXT_INLINE Vec<T> exp_nonpositive(Vec<T> x) {
  return x < Constants<T>::exp_lowest_normal ? Vec<T>{} : ReducedExp<T>(x).normal();
}

// log(x) = e ln 2 + log(m) with x = 2^e m and m in [sqrt(1/2), sqrt(2)). With f = m - 1 and
// s = f / (2 + f), log(m) = log((1 + s) / (1 - s)) = 2 s + s^3 L(s^2). 2 s is rounded but
// f - s f = 2 s, so that f, which is exact, can be added last: f - (f^2/2 - s (f^2/2 + s^2 L)).
template <typename T>
MAKEMORE_EXT_INLINE Vec<T> log(Vec<T> x) {
  using K = Constants<T>;
  using Integer = Bits<T>;
  constexpr T smallest = std::numeric_limits<T>::min();
  constexpr T infinity = std::numeric_limits<T>::infinity();
  constexpr T to_normal = T(Integer(1) << (K::mantissa_bits + 1));
  const Vec<Integer> is_subnormal = x < smallest;
  const Vec<Integer> bits = bit_cast<Vec<Integer>>(is_subnormal ? x * to_normal : x);
  // Subtracting the bits of sqrt(1/2) leaves e in the exponent's place, whichever side m is on.
  const Integer sqrt_half = bit_cast<Integer>(T(0.70710678118654752440));
  const Vec<Integer> exponent = (bits - sqrt_half) >> K::mantissa_bits;
  const Vec<T> f = bit_cast<Vec<T>>(bits - (exponent << K::mantissa_bits)) - T(1);
  const Vec<Integer> shift = is_subnormal & Integer(K::mantissa_bits + 1);
  const Vec<T> e = bit_cast<Vec<T>>(exponent - shift + bit_cast<Integer>(K::round)) - K::round;

  const Vec<T> s = f / (f + T(2));
  const Vec<T> square = s * s;
  const Vec<T> half_square = T(0.5) * f * f;
  const Vec<T> correction = s * (half_square + square * polynomial(square, K::log));
  const Vec<T> finite = e * K::ln2_high - ((half_square - (correction + e * K::ln2_low)) - f);

  Vec<T> result = x < infinity ? finite : x;  // infinity and NaN are their own logarithms
  result = x == T(0) ? broadcast(-infinity) : result;
  return x < T(0) ? broadcast(std::numeric_limits<T>::quiet_NaN()) : result;
}

#ifdef __AVX512F__
// One of 32 values for each lane, in a register or two and one instruction.
MAKEMORE_EXT_INLINE Vec<float> look_up(const float (&table)[32], Patterns low_bits) {
  return bit_cast<Vec<float>>(_mm512_permutex2var_ps(
      _mm512_load_ps(table), bit_cast<__m512i>(low_bits), _mm512_load_ps(table + 16)));
}

// The polynomial of each lane's interval: in half the time of what follows, without a division, and
// within 1 ulp. A minimum or maximum with a NaN is its second operand.
MAKEMORE_EXT_INLINE Vec<float> tanh_by_table(Vec<float> x) {
  const Patterns sign = bit_cast<Patterns>(x) & std::numeric_limits<int32_t>::min();
  const __m512 magnitude = bit_cast<__m512>(bit_cast<Patterns>(x) ^ sign);
  const __m512 limited = _mm512_min_ps(_mm512_set1_ps(kTanhHighest), magnitude);
  const __m512 in_table = _mm512_max_ps(_mm512_set1_ps(kTanhLowest), limited);
  const Patterns interval = bit_cast<Patterns>(in_table) >> kTanhShift;
  const Vec<float> distance = bit_cast<Vec<float>>(limited) - look_up(kTanhTable.centre, interval);
  Vec<float> result = look_up(kTanhTable.coefficient[kTanhDegree], interval);
  for (int k = kTanhDegree; k-- > 0;) {
    result = result * distance + look_up(kTanhTable.coefficient[k], interval);
  }
  return bit_cast<Vec<float>>(bit_cast<Patterns>(result) | sign);
}
#endif

// Near 0 an odd polynomial, since 1 - 2 / (exp(2|x|) + 1) cancels there; elsewhere that formula,
// which is 1 long before |x| = 30.
template <typename T>
MAKEMORE_EXT_INLINE Vec<T> tanh(Vec<T> x) {
#ifdef __AVX512F__
  if constexpr (std::is_same_v<T, float>) {
    return tanh_by_table(x);
  }
#endif
  const Vec<T> square = x * x;
  const Vec<T> near_zero = x + x * square * polynomial(square, Constants<T>::tanh);
  const Vec<Bits<T>> sign = bit_cast<Vec<Bits<T>>>(x) & std::numeric_limits<Bits<T>>::min();
  const Vec<T> magnitude = bit_cast<Vec<T>>(bit_cast<Vec<Bits<T>>>(x) ^ sign);
  const ReducedExp<T> exp_twice(magnitude > T(30) ? broadcast(T(60)) : magnitude + magnitude);
  const Vec<T> far = T(1) - T(2) * reciprocal<T>(exp_twice.normal() + T(1));
  const Vec<T> signed_far = bit_cast<Vec<T>>(bit_cast<Vec<Bits<T>>>(far) | sign);
  return magnitude < T(0.65) ? near_zero : signed_far;
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
