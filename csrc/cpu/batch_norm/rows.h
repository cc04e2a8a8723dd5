// The arithmetic of batch norm over rows of neighbouring elements. Both layouts are cut into them:
// with channels side by side each element of a row is of another channel; a row of a plane is of
// one channel.
//
// Sums are kept in double; a few terms are added in the type that elements are computed in before
// they are widened.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../simd/elementary.h"
#include "../simd/group.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "../simd/wide.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// A centre near `value`, one or a vector of them, from which elements of a narrow type differ
// without rounding: of their own precision.
template <typename T, typename Value>
MAKEMORE_EXT_INLINE Value centre_near(Value value) {
  if constexpr (std::is_same_v<T, Compute<T>>) {
    return value;
  } else {
    using Pattern = std::conditional_t<sizeof(Value) == sizeof(int32_t), int32_t, Patterns>;
    constexpr int kBitsMore = std::is_same_v<T, Half> ? 13 : 16;
    return bit_cast<Value>(bit_cast<Pattern>(value) >> kBitsMore << kBitsMore);
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

// What of a channel its elements are written from; see Normalized and InputGradient.
template <typename Value>
struct Parameters {
  Value centre;
  Value scale;
  Value shift;
  Value slope;
};

template <typename T>
struct GroupParameters {
  Parameters<Vec<Compute<T>>> of[kGroupVectors<T>];

  // For elements that are each of another channel.
  MAKEMORE_EXT_INLINE static GroupParameters load(const Parameters<Compute<T>*>& arrays,
                                                  int64_t column) {
    const auto centre = load_values<T>(arrays.centre + column);
    const auto scale = load_values<T>(arrays.scale + column);
    const auto shift = load_values<T>(arrays.shift + column);
    const auto slope = load_values<T>(arrays.slope + column);
    GroupParameters result;
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      result.of[v] = {centre.of[v], scale.of[v], shift.of[v], slope.of[v]};
    }
    return result;
  }

  // For elements of one channel.
  MAKEMORE_EXT_INLINE static GroupParameters all(const Parameters<Compute<T>*>& arrays,
                                                 int64_t channel) {
    GroupParameters result;
    for (auto& vectors : result.of) {
      vectors = {broadcast(arrays.centre[channel]), broadcast(arrays.scale[channel]),
                 broadcast(arrays.shift[channel]), broadcast(arrays.slope[channel])};
    }
    return result;
  }
};

// Two sums for each element of a group, apart from those of its neighbours, in arrays.
struct GroupSums {
  double* first;
  double* second;
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

// Rows whose sums are taken together: few, as rows a power of two apart share the places of a
// cache.
inline constexpr int64_t kSummedRows = 16;

// Terms that are added before they are widened, in two chains, so that an addition seldom waits for
// the one before it. Of floats four, of which more would cost more digits than there are to lose;
// of narrow types, which fill half a float at most, more. Where a channel has few elements at all,
// none.
template <typename T>
inline constexpr int64_t kTermsBeforeWide = std::is_same_v<T, float> ? 4 : 8;
inline constexpr int64_t kFewElements = 16;

// The terms of the group of each row at `column`, from terms.at(row, column, ...), are added to its
// sums; so are those of the groups beside it, `groups` in all. `are_few`: of the channel's elements
// there are fewer than kFewElements.
template <bool partial, int groups, typename T, typename Terms>
MAKEMORE_EXT_INLINE void add_rows(Range rows, int64_t column, int64_t count, bool are_few,
                                  const Group<T> (&centres)[groups], const GroupSums& sums,
                                  Terms terms) {
  using WideVector = Wide<Compute<T>>;
  constexpr int kVectors = kGroupVectors<T>;
  constexpr int kAll = groups * kVectors;
  WideVector first[kAll], second[kAll];
  for (int v = 0; v < kAll; ++v) {
    first[v] = WideVector::load(sums.first + v * kLanes<T>);
    second[v] = WideVector::load(sums.second + v * kLanes<T>);
  }
  const auto add = [&](int group, const TwoTerms<T>& sum) {
    const Group<T> of_first = in_memory_order(sum.first);
    const Group<T> of_second = in_memory_order(sum.second);
    for (int v = 0; v < kVectors; ++v) {
      const int i = group * kVectors + v;
      first[i] = first[i] + WideVector::from(of_first.of[v]);
      second[i] = second[i] + WideVector::from(of_second.of[v]);
    }
  };
  const auto term = [&](int group, int64_t row) {
    return terms.template at<partial>(row, column + group * kGroup<T>, count, centres[group]);
  };
  int64_t row = rows.begin;
  for (; !are_few && row + kTermsBeforeWide<T> <= rows.end; row += kTermsBeforeWide<T>) {
    for (int group = 0; group < groups; ++group) {
      TwoTerms<T> even = term(group, row), odd = term(group, row + 1);
      for (int64_t i = 2; i < kTermsBeforeWide<T>; i += 2) {
        even += term(group, row + i);
        odd += term(group, row + i + 1);
      }
      even += odd;
      add(group, even);
    }
  }
  for (; row < rows.end; ++row) {
    for (int group = 0; group < groups; ++group) {
      add(group, term(group, row));
    }
  }
  for (int v = 0; v < kAll; ++v) {
    first[v].store(sums.first + v * kLanes<T>);
    second[v].store(sums.second + v * kLanes<T>);
  }
}

// What forward sums: x - centre and its square.
template <bool ahead, typename T>
struct Moments {
  Rows<const T> x;

  template <bool partial>
  MAKEMORE_EXT_INLINE TwoTerms<T> at(int64_t row, int64_t column, int64_t count,
                                     const Group<T>& centre) const {
    const T* source = x.at(row) + column;
    if constexpr (ahead) {
      read_ahead(source, x.ahead_bytes);
    }
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
  }
};

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

// What batch norm writes, forward: y = activation((x - centre) scale + shift). A change of the
// formula is one of plain.h too.
template <Activation activation, typename T>
struct Normalized {
  Rows<const T> x;

  template <bool partial>
  MAKEMORE_EXT_INLINE Group<T> at(int64_t row, int64_t column, int64_t count,
                                  const GroupParameters<T>& parameters) const {
    Group<T> group = load_group<partial>(x.at(row) + column, count);
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      const auto& p = parameters.of[v];
      group.of[v] = activate<activation, Compute<T>>((group.of[v] - p.centre) * p.scale + p.shift);
    }
    return group;
  }
};

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

// What backward sums: dz and dz (x - centre).
template <bool ahead, Activation activation, typename T>
struct GradientMoments {
  GradientRows<T> gradient;
  Rows<const T> x;

  template <bool partial>
  MAKEMORE_EXT_INLINE TwoTerms<T> at(int64_t row, int64_t column, int64_t count,
                                     const Group<T>& centre) const {
    const T* source = x.at(row) + column;
    if constexpr (ahead) {
      read_ahead(source, x.ahead_bytes);
      gradient.template ask_ahead<activation>(row, column);
    }
    const Group<T> dz =
        gradient.template before_activation<partial, activation>(row, column, count);
    const Group<T> input = load_group<partial>(source, count);
    TwoTerms<T> terms;
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      terms.first.of[v] = dz.of[v];
      terms.second.of[v] = dz.of[v] * (input.of[v] - centre.of[v]);
    }
    return terms;
  }
};

// And backward: dx = scale (dz - shift - (x - centre) slope). Without feedback shift and slope are
// 0, and x is not read.
template <Activation activation, bool feedback, typename T>
struct InputGradient {
  GradientRows<T> gradient;
  Rows<const T> x;

  template <bool partial>
  MAKEMORE_EXT_INLINE Group<T> at(int64_t row, int64_t column, int64_t count,
                                  const GroupParameters<T>& parameters) const {
    Group<T> dz = gradient.template before_activation<partial, activation>(row, column, count);
    if constexpr (feedback) {
      const Group<T> input = load_group<partial>(x.at(row) + column, count);
      for (int v = 0; v < kGroupVectors<T>; ++v) {
        const auto& p = parameters.of[v];
        dz.of[v] = (dz.of[v] - p.shift) - (input.of[v] - p.centre) * p.slope;
      }
    }
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      dz.of[v] *= parameters.of[v].scale;
    }
    return dz;
  }
};

// Writes what groups.at(row, column, ...) gives to rows of `count` elements of one channel.
template <bool streamed, typename T, typename Groups>
MAKEMORE_EXT_INLINE void write_channel(const Rows<T>& result, int64_t rows, int64_t count,
                                       const GroupParameters<T>& parameters, const Groups& groups) {
  for (int64_t row = 0; row < rows; ++row) {
    T* destination = result.at(row);
    for_each_stored_group<streamed>(
        destination, count, [&](auto partial, int64_t column, int64_t elements) {
          constexpr bool kPartial = decltype(partial)::value;
          store_group<kPartial, streamed>(
              destination + column, groups.template at<kPartial>(row, column, elements, parameters),
              elements);
        });
  }
}

// The same to rows of elements that are each of another channel, group by group down the rows.
template <bool streamed, typename T, typename Groups>
MAKEMORE_EXT_INLINE void write_columns(Rows<T> result, Range rows, int64_t columns,
                                       const Parameters<Compute<T>*>& parameters, Groups groups) {
  for_each_group<T>(0, columns, [=](auto partial, int64_t column, int64_t count) {
    constexpr bool kPartial = decltype(partial)::value;
    const auto of_group = GroupParameters<T>::load(parameters, column);
    for (int64_t row = rows.begin; row < rows.end; ++row) {
      store_group<kPartial, streamed>(result.at(row) + column,
                                      groups.template at<kPartial>(row, column, count, of_group),
                                      count);
    }
  });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
