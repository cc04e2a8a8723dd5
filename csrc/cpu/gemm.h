// The product of two small matrices, for sizes where a BLAS spends its time on getting started.
//
// C is cut in tiles of up to 6 rows by one panel, two vectors wide: 12 accumulators stay in
// registers while the tile walks down the common dimension. Every step there takes two loads of B
// and one broadcast of A a row, for two multiply-adds a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <utility>

#include "kernels.h"
#include "parallel.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

inline constexpr int kTileRows = 6;

// Columns of a panel.
template <typename T>
inline constexpr int64_t kPanel = 2 * kLanes<T>;

// Steps down the common dimension at a time: the panel of B and the lines of A that they touch fit
// into the first-level cache, and sums of sums round less than one long sum.
inline constexpr int64_t kDepth = 128;

// Rows of C in a piece of work, which packs its panels for itself.
inline constexpr int64_t kPieceRows = 192;

constexpr int64_t round_up(int64_t value, int64_t multiple) {
  return (value + multiple - 1) / multiple * multiple;
}

// The columns that a matrix needs to be written by whole panels.
template <typename T>
constexpr int64_t padded(int64_t columns) {
  return round_up(columns, kPanel<T>);
}

// The distance of its rows: an odd number of cache lines, so that the rows of one column are
// spread over all the sets of a cache.
template <typename T>
constexpr int64_t padded_stride(int64_t columns) {
  constexpr int64_t kLine = 64 / sizeof(T);
  return ((padded<T>(columns) + kLine - 1) / kLine | 1) * kLine;
}

// c [rows, kPanel] = start + a b. b: [depth, kPanel].
template <typename T, int rows>
void multiply_tile(const Matrix<const T>& a, const T* b, int64_t b_stride, const T* start,
                   int64_t start_stride, T* c, int64_t c_stride) {
  Vec<T> sum[rows][2];
  for (int r = 0; r < rows; ++r) {
    sum[r][0] = sum[r][1] = Vec<T>{};
  }
  const T* column = a.data;
  for (int64_t k = 0; k < a.columns; ++k) {
    const Vec<T> b0 = load(b);
    const Vec<T> b1 = load(b + kLanes<T>);
    for (int r = 0; r < rows; ++r) {
      const T value = column[r * a.row_stride];
      sum[r][0] += value * b0;
      sum[r][1] += value * b1;
    }
    column += a.column_stride;
    b += b_stride;
  }
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < 2; ++v) {
      store(c + r * c_stride + v * kLanes<T>,
            load(start + r * start_stride + v * kLanes<T>) + sum[r][v]);
    }
  }
}

// The tile with as many rows as `a` has, at most `rows`.
template <typename T, int rows = kTileRows>
void multiply_any_tile(const Matrix<const T>& a, const T* b, int64_t b_stride, const T* start,
                       int64_t start_stride, T* c, int64_t c_stride) {
  if (a.rows == rows) {
    multiply_tile<T, rows>(a, b, b_stride, start, start_stride, c, c_stride);
  } else if constexpr (rows > 1) {
    multiply_any_tile<T, rows - 1>(a, b, b_stride, start, start_stride, c, c_stride);
  }
}

// Row i of the result is made of lane i of every row. In each round, pairs of rows that are `step`
// apart swap those quarters of theirs that lie off the diagonal.
template <typename T, int step = 1>
void transpose(Vec<T> (&rows)[kLanes<T>]) {
  if constexpr (step < kLanes<T>) {
    const auto swap = [&]<int... lane>(std::integer_sequence<int, lane...>, Vec<T>& a, Vec<T>& b) {
      constexpr int kCount = sizeof...(lane);
      const Vec<T> upper =
          __builtin_shufflevector(a, b, (lane & step ? kCount + lane - step : lane)...);
      b = __builtin_shufflevector(a, b, (lane & step ? kCount + lane : lane + step)...);
      a = upper;
    };
    for (int i = 0; i < kLanes<T>; ++i) {
      if ((i & step) == 0) {
        swap(std::make_integer_sequence<int, kLanes<T>>(), rows[i], rows[i + step]);
      }
    }
    transpose<T, 2 * step>(rows);
  }
}

// Copies columns [first, first + kPanel) of b to a contiguous panel, zeros where b has none.
template <typename T>
void pack_panel(const Matrix<const T>& b, int64_t first, T* panel) {
  const int64_t columns = std::min(kPanel<T>, b.columns - first);
  const T* source = b.data + first * b.column_stride;
  int64_t k = 0;
  if (b.row_stride == 1) {
    for (; k + kLanes<T> <= b.rows; k += kLanes<T>) {
      for (int64_t j = 0; j < kPanel<T>; j += kLanes<T>) {
        Vec<T> block[kLanes<T>];
        for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
          block[lane] =
              j + lane < columns ? load(source + (j + lane) * b.column_stride + k) : Vec<T>{};
        }
        transpose<T>(block);
        for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
          store(panel + (k + lane) * kPanel<T> + j, block[lane]);
        }
      }
    }
  }
  for (; k < b.rows; ++k) {
    for (int64_t j = 0; j < kPanel<T>; ++j) {
      panel[k * kPanel<T> + j] =
          j < columns ? source[k * b.row_stride + j * b.column_stride] : T(0);
    }
  }
}

// c = a b, plus `bias` [padded(b.columns)] in every row unless it is null. The rows of c are
// contiguous and have room for padded(b.columns) columns, all of which are written.
template <typename T>
void multiply(const Matrix<const T>& a, const Matrix<const T>& b, const T* bias, Matrix<T> c) {
  const int64_t panels = padded<T>(b.columns) / kPanel<T>;
  const int64_t blocks = (a.rows + kPieceRows - 1) / kPieceRows;

  const auto multiply_block = [&](int64_t first_row, int64_t rows, int64_t column) {
    const bool in_place = b.column_stride == 1 && column + kPanel<T> <= b.columns;
    alignas(64) static constexpr T zeros[kPanel<T>] = {};
    alignas(64) T packed[kDepth * kPanel<T>];
    // Tiles of nearly equal height: a short one would wait for its few sums.
    const int64_t tiles = (rows + kTileRows - 1) / kTileRows;
    const int64_t shortest = rows / tiles, longer = rows % tiles;
    for (int64_t k = 0; k < a.columns; k += kDepth) {
      const int64_t depth = std::min(kDepth, a.columns - k);
      const Matrix<const T> b_rows{b.row(k), depth, b.columns, b.row_stride, b.column_stride};
      if (!in_place) {
        pack_panel<T>(b_rows, column, packed);
      }
      const T* panel = in_place ? b_rows.data + column : packed;
      const int64_t panel_stride = in_place ? b.row_stride : kPanel<T>;
      int64_t row = first_row;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t tile_rows = shortest + (tile < longer ? 1 : 0);
        const Matrix<const T> a_tile{a.row(row) + k * a.column_stride, tile_rows, depth,
                                     a.row_stride, a.column_stride};
        T* c_tile = c.row(row) + column;
        const T* start = k > 0 ? c_tile : bias == nullptr ? zeros : bias + column;
        multiply_any_tile<T>(a_tile, panel, panel_stride, start, k > 0 ? c.row_stride : 0, c_tile,
                             c.row_stride);
        row += tile_rows;
      }
    }
  };
  for_each_piece(blocks * panels, 1, a.rows * a.columns * b.columns / 64,
                 [&](int64_t piece, int64_t, int64_t) {
                   const int64_t first_row = piece / panels * kPieceRows;
                   multiply_block(first_row, std::min(kPieceRows, a.rows - first_row),
                                  piece % panels * kPanel<T>);
                 });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
