// The arithmetic of batch norm over rows of neighbouring elements. Both layouts are cut into them:
// with channels side by side each element of a row is of another channel; a row of a plane is of
// one channel.
//
// Sums are kept in double; a few terms are added in the type that elements are computed in before
// they are widened.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../simd/elementary.h"
#include "../simd/group.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "../simd/wide.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

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

struct Range {
  int64_t begin;
  int64_t end;
};

// Rows of elements, each `stride` after the one before.
template <typename T>
struct Rows {
  T* data;
  int64_t stride;
  int64_t ahead_bytes;  // how far ahead of the sums memory is asked for

  T* at(int64_t row) const { return data + row * stride; }
};

// What of a channel its elements are written from; see normalize() and input_gradient().
template <typename Value>
struct Parameters {
  Value centre;
  Value scale;
  Value shift;
  Value slope;
};

// For elements of a row that are each of another channel. A row may be many rows that follow each
// other: parameters repeat after `columns`, and each array goes on from its start for a group more.
template <typename T>
class ColumnParameters {
 public:
  // data: [4, size], in the order of Parameters, each row a GroupArray
  ColumnParameters(const Compute<T>* data, int64_t size, int64_t columns)
      : data_(data), size_(size), columns_(columns) {}

  // `index` is never less than the one before.
  MAKEMORE_EXT_INLINE void move_to(int64_t index) {
    while (index - row_ >= columns_) {
      row_ += columns_;
    }
    column_ = index - row_;
  }
  MAKEMORE_EXT_INLINE Parameters<Vec<Compute<T>>> at(int v) const {
    return {load_from(0, v), load_from(1, v), load_from(2, v), load_from(3, v)};
  }

 private:
  MAKEMORE_EXT_INLINE Vec<Compute<T>> load_from(int array, int v) const {
    return load(GroupArray<T, const Compute<T>>{data_ + array * size_, size_}.vector(column_, v));
  }

  const Compute<T>* data_;
  int64_t size_;
  int64_t columns_;
  int64_t row_ = 0;
  int64_t column_ = 0;
};

// For rows of one channel.
template <typename T>
class ChannelParameters {
 public:
  explicit ChannelParameters(const Parameters<Compute<T>>& of_channel)
      : vectors_{broadcast(of_channel.centre), broadcast(of_channel.scale),
                 broadcast(of_channel.shift), broadcast(of_channel.slope)} {}

  MAKEMORE_EXT_INLINE void move_to(int64_t) {}
  MAKEMORE_EXT_INLINE Parameters<Vec<Compute<T>>> at(int) const { return vectors_; }

 private:
  Parameters<Vec<Compute<T>>> vectors_;
};

// Two sums for each element of a group, apart from those of its neighbours.
template <typename T>
struct GroupSums {
  GroupArray<T, double> first;
  GroupArray<T, double> second;
};

template <typename T>
struct TwoTerms {
  Group<T> first;
  Group<T> second;

  MAKEMORE_EXT_INLINE void operator+=(const TwoTerms& other) {
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      first.of[v] += other.first.of[v];
      second.of[v] += other.second.of[v];
    }
  }
};

// How many terms are added before they are widened: of floats two, where a third would cost more
// digits than there are to lose; of narrow types, which fill half a float at most, more.
template <typename T>
inline constexpr int64_t kTermsBeforeWide = std::is_same_v<T, Compute<T>> ? 2 : 8;

// Two terms of each row for the group at `index` are added to its sums. terms(row) gives both.
template <typename T, typename Terms>
MAKEMORE_EXT_INLINE void add_rows(int64_t rows, int64_t index, const GroupSums<T>& sums,
                                  const Terms& terms) {
  using WideVector = Wide<Compute<T>>;
  WideVector first[kGroupVectors<T>], second[kGroupVectors<T>];
  for (int v = 0; v < kGroupVectors<T>; ++v) {
    first[v] = WideVector::load(sums.first.vector(index, v));
    second[v] = WideVector::load(sums.second.vector(index, v));
  }
  const auto add = [&](const TwoTerms<T>& sum) {
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      first[v] = first[v] + WideVector::from(sum.first.of[v]);
      second[v] = second[v] + WideVector::from(sum.second.of[v]);
    }
  };
  int64_t row = 0;
  for (; row + kTermsBeforeWide<T> <= rows; row += kTermsBeforeWide<T>) {
    TwoTerms<T> sum = terms(row);
    for (int64_t i = 1; i < kTermsBeforeWide<T>; ++i) {
      sum += terms(row + i);
    }
    add(sum);
  }
  if (row < rows) {
    TwoTerms<T> sum = terms(row);
    while (++row < rows) {
      sum += terms(row);
    }
    add(sum);
  }
  for (int v = 0; v < kGroupVectors<T>; ++v) {
    first[v].store(sums.first.vector(index, v));
    second[v].store(sums.second.vector(index, v));
  }
}

// Adds x - centre and its square, for the group of each row at `column`, whose values in the other
// arrays are at `index`.
template <bool partial, typename T>
MAKEMORE_EXT_INLINE void add_moments(Rows<const T> x, int64_t rows, int64_t column, int64_t count,
                                     const Group<T>& centre, int64_t index,
                                     const GroupSums<T>& sums) {
  add_rows<T>(rows, index, sums, [&](int64_t row) {
    const T* source = x.at(row) + column;
    read_ahead(source, x.ahead_bytes);
    const Group<T> input = load_group<partial>(source, count);
    TwoTerms<T> terms;
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      Vec<Compute<T>> difference = input.of[v] - centre.of[v];
      if constexpr (partial) {
        difference = is_inside<T>(v, count) ? difference : Vec<Compute<T>>{};
      }
      terms.first.of[v] = difference;
      terms.second.of[v] = difference * difference;
    }
    return terms;
  });
}

template <Activation activation, typename T>
MAKEMORE_EXT_INLINE Vec<T> activate(Vec<T> z) {
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
MAKEMORE_EXT_INLINE Vec<T> activate_backward(Vec<T> grad, Vec<T> y) {
  if constexpr (activation == Activation::tanh) {
    return grad * ((T(1) - y) * (T(1) + y));  // 1 - y^2 without cancellation near |y| = 1
  } else if constexpr (activation == Activation::relu) {
    return y <= T(0) ? Vec<T>{} : grad;  // a NaN passes the gradient on, as in torch
  } else {
    return grad;
  }
}

// Writes rows of groups that group(partial, row, column, count, parameters at that column) gives.
template <bool streamed, typename T, typename RowParameters, typename MakeGroup>
MAKEMORE_EXT_INLINE void write_rows(Rows<T> result, int64_t rows, int64_t count,
                                    const RowParameters& parameters, const MakeGroup& group) {
  for (int64_t row = 0; row < rows; ++row) {
    T* destination = result.at(row);
    RowParameters of_row = parameters;
    for_each_stored_group<streamed>(
        destination, count, [&](auto partial, int64_t i, int64_t elements) {
          of_row.move_to(i);
          store_group<decltype(partial)::value, streamed>(
              destination + i, group(partial, row, i, elements, of_row), elements);
        });
  }
}

// What batch norm writes, forward: y = activation((x - centre) scale + shift). A change of the
// formula is one of plain.h too.
template <Activation activation, bool streamed, typename T, typename RowParameters>
inline void normalize(Rows<const T> x, Rows<T> y, int64_t rows, int64_t count,
                      const RowParameters& parameters) {
  write_rows<streamed>(
      y, rows, count, parameters,
      [&](auto partial, int64_t row, int64_t i, int64_t elements, const RowParameters& at_i) {
        Group<T> group = load_group<decltype(partial)::value>(x.at(row) + i, elements);
        for (int v = 0; v < kGroupVectors<T>; ++v) {
          const auto p = at_i.at(v);
          const Vec<Compute<T>> z = (group.of[v] - p.centre) * p.scale + p.shift;
          group.of[v] = activate<activation, Compute<T>>(z);
        }
        return group;
      });
}

// The gradient after the activation, and the activation's output, which is null without one.
template <typename T>
struct GradientRows {
  Rows<const T> grad;
  Rows<const T> output;

  template <bool partial, Activation activation>
  MAKEMORE_EXT_INLINE Group<T> before_activation(int64_t row, int64_t column, int64_t count) const {
    Group<T> group = load_group<partial>(grad.at(row) + column, count);
    if constexpr (activation != Activation::none) {
      const Group<T> y = load_group<partial>(output.at(row) + column, count);
      for (int v = 0; v < kGroupVectors<T>; ++v) {
        group.of[v] = activate_backward<activation, Compute<T>>(group.of[v], y.of[v]);
      }
    }
    return group;
  }

  template <Activation activation>
  MAKEMORE_EXT_INLINE void ask_ahead(int64_t row, int64_t column) const {
    read_ahead(grad.at(row) + column, grad.ahead_bytes);
    if constexpr (activation != Activation::none) {
      read_ahead(output.at(row) + column, output.ahead_bytes);
    }
  }
};

// Adds dz and dz (x - centre), like add_moments.
template <bool partial, Activation activation, typename T>
MAKEMORE_EXT_INLINE void add_gradient_moments(GradientRows<T> gradient, Rows<const T> x,
                                              int64_t rows, int64_t column, int64_t count,
                                              const Group<T>& centre, int64_t index,
                                              const GroupSums<T>& sums) {
  add_rows<T>(rows, index, sums, [&](int64_t row) {
    const T* source = x.at(row) + column;
    read_ahead(source, x.ahead_bytes);
    gradient.template ask_ahead<activation>(row, column);
    const Group<T> dz =
        gradient.template before_activation<partial, activation>(row, column, count);
    const Group<T> input = load_group<partial>(source, count);
    TwoTerms<T> terms;
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      terms.first.of[v] = dz.of[v];
      terms.second.of[v] = dz.of[v] * (input.of[v] - centre.of[v]);
    }
    return terms;
  });
}

// And backward: dx = scale (dz - shift - (x - centre) slope). Without feedback shift and slope are
// 0, and x is not read.
template <Activation activation, bool feedback, bool streamed, typename T, typename RowParameters>
inline void input_gradient(GradientRows<T> gradient, Rows<const T> x, Rows<T> dx, int64_t rows,
                           int64_t count, const RowParameters& parameters) {
  write_rows<streamed>(
      dx, rows, count, parameters,
      [&](auto partial, int64_t row, int64_t i, int64_t elements, const RowParameters& at_i) {
        constexpr bool is_partial = decltype(partial)::value;
        Group<T> dz = gradient.template before_activation<is_partial, activation>(row, i, elements);
        if constexpr (feedback) {
          const Group<T> input = load_group<is_partial>(x.at(row) + i, elements);
          for (int v = 0; v < kGroupVectors<T>; ++v) {
            const auto p = at_i.at(v);
            dz.of[v] = (dz.of[v] - p.shift) - (input.of[v] - p.centre) * p.slope;
          }
        }
        for (int v = 0; v < kGroupVectors<T>; ++v) {
          const auto p = at_i.at(v);
          dz.of[v] *= p.scale;
        }
        return dz;
      });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
