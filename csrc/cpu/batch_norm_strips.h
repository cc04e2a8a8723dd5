// The arithmetic of batch norm over strips: one or kWideStrip adjacent vectors of a row, over rows
// at a fixed distance. Both layouts are cut into them. With channels side by side a lane is a
// channel; a plane of one channel is rows of its own that follow each other, and all lanes are that
// channel.
//
// Every parameter is an array with one value for each lane of the strip. Sums are kept in double;
// two terms are added in the type of the elements before they are widened.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "elementary.h"
#include "kernels.h"
#include "stream.h"
#include "vec.h"
#include "wide.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// As many vectors as there are registers for, with four parameters for each.
inline constexpr int kWideStrip = MAKEMORE_EXT_VECTOR_BYTES == 64 ? 4 : 2;

// Elements of the widest strip: arrays over columns have room for a multiple of it.
template <typename T>
inline constexpr int64_t kStripElements = kWideStrip * kLanes<T>;

// A centre near `value` from which elements of a narrow type differ without rounding: of their own
// precision.
template <typename T>
inline Compute<T> centre_near(Compute<T> value) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return value;
  } else {
    constexpr int kBitsMore = std::is_same_v<T, Half> ? 13 : 16;
    return bit_cast<float>(bit_cast<int32_t>(value) >> kBitsMore << kBitsMore);
  }
}

template <int vectors_, bool partial_>
struct Strip {
  static constexpr int vectors = vectors_;
  static constexpr bool partial = partial_;  // one vector, of which only the first lanes are there
};

// Calls body(strip, first column, columns) for the strips of [0, columns): the widest, or those of
// one vector alone, then the remainder.
template <typename T, int widest, typename Body>
inline void for_each_strip(int64_t columns, const Body& body) {
  int64_t column = 0;
  if constexpr (widest > 1) {
    for (; column + widest * kLanes<T> <= columns; column += widest * kLanes<T>) {
      body(Strip<widest, false>{}, column, widest * kLanes<T>);
    }
  }
  for (; column + kLanes<T> <= columns; column += kLanes<T>) {
    body(Strip<1, false>{}, column, kLanes<T>);
  }
  if (column < columns) {
    body(Strip<1, true>{}, column, columns - column);
  }
}

// Elements at `data`, and how far it is to the next row of the strip.
template <typename T>
struct StripRows {
  T* data;
  int64_t stride;

  T* at(int64_t row, int vector) const {
    return data + row * stride + vector * kLanes<std::remove_const_t<T>>;
  }

  // How far ahead of the sums memory is asked for: rows apart are no stream that a processor sees
  // by itself; where they follow each other, it stops at every page.
  int64_t ahead_bytes() const {
    constexpr int64_t kRows = 16;
    constexpr int64_t kBytes = 4096;
    return std::max<int64_t>(kBytes, kRows * stride * static_cast<int64_t>(sizeof(T)));
  }
};

// Calls body(streamed) with whether to store these rows past the caches.
template <typename Strip, typename T, typename Body>
inline void with_stores(bool is_large, StripRows<T> rows, const Body& body) {
  if constexpr (Strip::vectors > 1) {
    const int64_t stride_bytes = rows.stride * static_cast<int64_t>(sizeof(T));
    if (is_large && is_aligned(rows.data) && stride_bytes % kStoredBytes<T> == 0) {
      return body(std::true_type{});
    }
  }
  body(std::false_type{});
}

template <typename C>
struct TwoTerms {
  Vec<C> first;
  Vec<C> second;

  TwoTerms operator+(const TwoTerms& other) const {
    return {first + other.first, second + other.second};
  }
};

// Two terms of every row for every lane of one vector are added to sums in double. terms(row) gives
// both.
template <typename T, typename Terms>
inline void add_rows(int64_t rows, double* first, double* second, const Terms& terms) {
  using C = Compute<T>;
  Wide<C> first_sum = Wide<C>::load(first);
  Wide<C> second_sum = Wide<C>::load(second);
  const auto add = [&](const TwoTerms<C>& sum) {
    first_sum = first_sum + Wide<C>::from(sum.first);
    second_sum = second_sum + Wide<C>::from(sum.second);
  };
  int64_t row = 0;
  for (; row + 2 <= rows; row += 2) {
    add(terms(row) + terms(row + 1));
  }
  if (row < rows) {
    add(terms(row));
  }
  first_sum.store(first);
  second_sum.store(second);
}

// Adds x - centre and its square.
template <typename Strip, typename T>
inline void add_moments(StripRows<const T> x, int64_t rows, int64_t count, const Compute<T>* centre,
                        double* sum, double* squares) {
  static_assert(Strip::vectors == 1);
  using C = Compute<T>;
  const Vec<C> c = load(centre);
  const int64_t ahead = x.ahead_bytes();
  add_rows<T>(rows, sum, squares, [&](int64_t row) {
    read_ahead(x.at(row, 0), ahead);
    Vec<C> difference = load_lanes<Strip::partial>(x.at(row, 0), count, C(0)) - c;
    if constexpr (Strip::partial) {
      difference = lane_numbers<C>() < Bits<C>(count) ? difference : Vec<C>{};
    }
    return TwoTerms<C>{difference, difference * difference};
  });
}

template <Activation activation, typename T>
inline Vec<T> activate(Vec<T> z) {
  if constexpr (activation == Activation::tanh) {
    return tanh<T>(z);
  } else if constexpr (activation == Activation::relu) {
    return z < T(0) ? Vec<T>{} : z;  // a NaN stays
  } else {
    return z;
  }
}

// The gradient before the activation, from the one after it and the activation's output y.
template <Activation activation, typename T>
inline Vec<T> activate_backward(Vec<T> grad, Vec<T> y) {
  if constexpr (activation == Activation::tanh) {
    return grad * ((T(1) - y) * (T(1) + y));  // 1 - y^2 without cancellation near |y| = 1
  } else if constexpr (activation == Activation::relu) {
    return y <= T(0) ? Vec<T>{} : grad;  // a NaN passes the gradient on, as in torch
  } else {
    return grad;
  }
}

// y = activation((x - centre) scale + bias)
template <typename Strip, Activation activation, bool streamed, typename T>
inline void normalize(StripRows<const T> x, StripRows<T> y, int64_t rows, int64_t count,
                      const Compute<T>* centre, const Compute<T>* scale, const Compute<T>* bias) {
  using C = Compute<T>;
  Vec<C> c[Strip::vectors], s[Strip::vectors], b[Strip::vectors];
  for (int v = 0; v < Strip::vectors; ++v) {
    c[v] = load(centre + v * kLanes<T>);
    s[v] = load(scale + v * kLanes<T>);
    b[v] = load(bias + v * kLanes<T>);
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < Strip::vectors; ++v) {
      const Vec<C> input = load_lanes<Strip::partial>(x.at(row, v), count, C(0));
      const Vec<C> z = (input - c[v]) * s[v] + b[v];
      store_lanes_through<Strip::partial, streamed>(y.at(row, v), activate<activation, C>(z),
                                                    count);
    }
  }
}

// The gradient after the activation, and the activation's output, which is null without one.
template <typename T>
struct GradientRows {
  StripRows<const T> grad;
  StripRows<const T> output;

  template <typename Strip, Activation activation>
  Vec<Compute<T>> before_activation(int64_t row, int v, int64_t count) const {
    using C = Compute<T>;
    const Vec<C> after = load_lanes<Strip::partial>(grad.at(row, v), count, C(0));
    if constexpr (activation == Activation::none) {
      return after;
    } else {
      return activate_backward<activation, C>(
          after, load_lanes<Strip::partial>(output.at(row, v), count, C(0)));
    }
  }
};

// Adds dz and dz (x - centre).
template <typename Strip, Activation activation, typename T>
inline void add_gradient_moments(GradientRows<T> gradient, StripRows<const T> x, int64_t rows,
                                 int64_t count, const Compute<T>* centre, double* sum,
                                 double* products) {
  static_assert(Strip::vectors == 1);
  using C = Compute<T>;
  const Vec<C> c = load(centre);
  const int64_t ahead = x.ahead_bytes();
  add_rows<T>(rows, sum, products, [&](int64_t row) {
    read_ahead(x.at(row, 0), ahead);
    read_ahead(gradient.grad.at(row, 0), ahead);
    const Vec<C> dz = gradient.template before_activation<Strip, activation>(row, 0, count);
    const Vec<C> input = load_lanes<Strip::partial>(x.at(row, 0), count, C(0));
    return TwoTerms<C>{dz, dz * (input - c)};
  });
}

// dx = scale (dz - shift - (x - centre) slope). Without feedback shift and slope are 0, and x is
// not read.
template <typename Strip, Activation activation, bool feedback, bool streamed, typename T>
inline void input_gradient(GradientRows<T> gradient, StripRows<const T> x, StripRows<T> dx,
                           int64_t rows, int64_t count, const Compute<T>* centre,
                           const Compute<T>* scale, const Compute<T>* shift,
                           const Compute<T>* slope) {
  using C = Compute<T>;
  Vec<C> c[Strip::vectors], factor[Strip::vectors], offset[Strip::vectors], per_x[Strip::vectors];
  for (int v = 0; v < Strip::vectors; ++v) {
    c[v] = load(centre + v * kLanes<T>);
    factor[v] = load(scale + v * kLanes<T>);
    offset[v] = load(shift + v * kLanes<T>);
    per_x[v] = load(slope + v * kLanes<T>);
  }
  for (int64_t row = 0; row < rows; ++row) {
    for (int v = 0; v < Strip::vectors; ++v) {
      Vec<C> dz = gradient.template before_activation<Strip, activation>(row, v, count);
      if constexpr (feedback) {
        const Vec<C> input = load_lanes<Strip::partial>(x.at(row, v), count, C(0));
        dz = (dz - offset[v]) - (input - c[v]) * per_x[v];
      }
      store_lanes_through<Strip::partial, streamed>(dx.at(row, v), dz * factor[v], count);
    }
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
