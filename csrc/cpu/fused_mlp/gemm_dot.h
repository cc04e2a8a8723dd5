// The product of a matrix and a transposed one, a b^T, whose common dimension is much longer than b
// has rows. Both lie along that dimension in memory, so that an element of the product is summed in
// the lanes of one accumulator and nothing needs to be packed; see gemm.h for the other products.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "../parallel.h"
#include "../simd/reduce.h"
#include "../simd/vec.h"
#include "gemm_panels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Rows of a and of b in a tile, whose accumulators stay in registers; a row's fit into a vector.
inline constexpr int kDotRows = 2;
template <typename T>
inline constexpr int kDotColumns =
    std::min<int>(MAKEMORE_EXT_VECTOR_BYTES == 64 ? 10 : 5, static_cast<int>(kLanes<T>));

// Lane i of the result is the sum of the lanes of vectors[i], and 0 from `count` on. In each round,
// vectors that are `step` apart become one, of the sums of neighbours within either.
template <typename T, int step = 1, int count>
MAKEMORE_EXT_INLINE Vec<T> sums_of_lanes(Vec<T> (&vectors)[count]) {
  if constexpr (step == kLanes<T>) {
    return vectors[0];
  } else {
    const auto join = [&]<int... lane>(std::integer_sequence<int, lane...>, Vec<T> a, Vec<T> b) {
      constexpr int kCount = sizeof...(lane);
      return shuffle<(lane & step ? kCount + lane - step : lane)...>(a, b) +
             shuffle<(lane & step ? kCount + lane : lane + step)...>(a, b);
    };
#pragma GCC unroll 8
    for (int i = 0; i < count; i += 2 * step) {
      vectors[i] =
          join(LaneSequence<T>(), vectors[i], i + step < count ? vectors[i + step] : Vec<T>{});
    }
    return sums_of_lanes<T, 2 * step>(vectors);
  }
}

// c [rows, columns] = a b^T, over a depth of whole vectors.
template <typename T, int rows, int columns>
void dot_tile(const Matrix<const T>& a, const Matrix<const T>& b, T* c, int64_t c_stride) {
  Vec<T> sum[rows][columns] = {};
  // A pointer to every fourth row, as in multiply_tile().
  constexpr int kGroup = 4;
  const T* group[(columns + kGroup - 1) / kGroup];
  for (int j = 0; j < columns; j += kGroup) {
    group[j / kGroup] = b.row(j);
  }
  for (int64_t k = 0; k < a.columns; k += kLanes<T>) {
    Vec<T> a_part[rows];
    for (int r = 0; r < rows; ++r) {
      a_part[r] = load(a.row(r) + k);
    }
    for (int j = 0; j < columns; ++j) {
      const Vec<T> b_part = load(group[j / kGroup] + j % kGroup * b.row_stride + k);
      for (int r = 0; r < rows; ++r) {
        sum[r][j] += a_part[r] * b_part;
      }
    }
  }
#pragma GCC unroll 2
  for (int r = 0; r < rows; ++r) {
    store_partial(c + r * c_stride, sums_of_lanes<T>(sum[r]), columns);
  }
}

// The tile with as many columns as b has rows, at most `columns`.
template <typename T, int rows, int columns = kDotColumns<T>>
void any_dot_tile(const Matrix<const T>& a, const Matrix<const T>& b, T* c, int64_t c_stride) {
  if (b.rows == columns) {
    dot_tile<T, rows, columns>(a, b, c, c_stride);
  } else if constexpr (columns > 1) {
    any_dot_tile<T, rows, columns - 1>(a, b, c, c_stride);
  }
}

// c = a b^T. The rows of all three are contiguous; those of a and b are whole vectors.
template <typename T>
void multiply_transposed(const Matrix<const T>& a, const Matrix<const T>& b, Matrix<T> c) {
  const int64_t tiles = (b.rows + kDotColumns<T> - 1) / kDotColumns<T>;
  const int64_t narrowest = b.rows / tiles, wider = b.rows % tiles;
  for_each_piece(
      a.rows, kDotRows, a.rows * a.columns * b.rows / 64, [&](int64_t, int64_t begin, int64_t end) {
        const Matrix<const T> a_tile{a.row(begin), end - begin, a.columns, a.row_stride, 1};
        int64_t column = 0;
        for (int64_t tile = 0; tile < tiles; ++tile) {
          const int64_t columns = narrowest + (tile < wider ? 1 : 0);
          const Matrix<const T> b_tile{b.row(column), columns, b.columns, b.row_stride, 1};
          T* c_tile = c.row(begin) + column;
          if (end - begin == kDotRows) {
            any_dot_tile<T, kDotRows>(a_tile, b_tile, c_tile, c.row_stride);
          } else {
            any_dot_tile<T, 1>(a_tile, b_tile, c_tile, c.row_stride);
          }
          column += columns;
        }
      });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
