// Panels, the strips of columns that a matrix product is computed in, and how a matrix is laid out
// or copied for them.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "../../arguments.h"
#include "../simd/reduce.h"
#include "../simd/vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Columns of a panel.
template <typename T>
inline constexpr int64_t kPanel = 2 * kLanes<T>;

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The columns that a matrix needs to be written by whole panels.
template <typename T>
constexpr int64_t padded(int64_t columns) {
  return round_up(columns, kPanel<T>);
}

// The distance of its rows: an odd number of cache lines, so that the rows of one column are
// spread over all the sets of a cache. Where two hold a row, every other set is enough.
template <typename T>
constexpr int64_t padded_stride(int64_t columns) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const int64_t lines = (padded<T>(columns) + kLine - 1) / kLine;
  return (lines == 2 ? lines : lines | 1) * kLine;
}

// Row i of the result is made of lane i of every row. In each round, pairs of rows that are `step`
// apart swap those quarters of theirs that lie off the diagonal.
template <typename T, int step = 1>
void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (step < kLanes<T>) {
    const auto swap = [&]<int... lane>(std::integer_sequence<int, lane...>, Vec<T>& a, Vec<T>& b) {
      constexpr int kCount = sizeof...(lane);
      const Vec<T> upper = shuffle<(lane & step ? kCount + lane - step : lane)...>(a, b);
      b = shuffle<(lane & step ? kCount + lane : lane + step)...>(a, b);
      a = upper;
    };
    for (int i = 0; i < kLanes<T>; ++i) {
      if ((i & step) == 0) {
        swap(LaneSequence<T>(), rows[i], rows[i + step]);
      }
    }
    transpose<T, 2 * step>(rows);
  }
}

// The first `count` lanes, which may be all.
template <typename T>
Vec<T> load_first(const T* source, int64_t count) {
  return count < kLanes<T> ? load_partial(source, count, T(0)) : load(source);
}

// Copies columns of b, at most a vector of them and transposed, with the neighbours in a column of
// b side by side in memory.
template <typename T>
void pack_transposed(const Matrix<const T>& b, T* panel) {
  for (int64_t k = 0; k < b.rows; k += kLanes<T>) {
    const int64_t rows = std::min(kLanes<T>, b.rows - k);
    Vec<T> block[kLanes<T>];
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      const T* from = b.data + lane * b.column_stride + k;
      block[lane] = lane < b.columns ? load_first(from, rows) : Vec<T>{};
    }
    transpose<T>(block);
    for (int64_t row = 0; row < kLanes<T>; ++row) {
      if (row < rows) {
        store(panel + (k + row) * kPanel<T>, block[row]);
      }
    }
  }
}

// Copies `columns` columns of b, from `first` on, to a contiguous panel of whole vectors, at most
// kPanel wide, with zeros where b has none.
template <typename T>
void pack_panel(const Matrix<const T>& b, int64_t first, int64_t columns, T* panel) {
  for (int64_t j = 0; j < columns; j += kLanes<T>) {
    const T* source = b.data + (first + j) * b.column_stride;
    const int64_t lanes = std::min(kLanes<T>, columns - j);
    if (b.row_stride == 1) {
      pack_transposed<T>({source, b.rows, lanes, b.row_stride, b.column_stride}, panel + j);
      continue;
    }
    for (int64_t k = 0; k < b.rows; ++k) {
      const T* from = source + k * b.row_stride;
      Vec<T> row{};
      if (b.column_stride == 1) {
        row = load_first(from, lanes);
      } else {
        for (int64_t lane = 0; lane < lanes; ++lane) {
          row[lane] = from[lane * b.column_stride];
        }
      }
      store(panel + k * kPanel<T> + j, row);
    }
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
