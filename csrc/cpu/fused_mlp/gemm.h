// The product of two small matrices, for sizes where a BLAS spends its time on getting started.
//
// C is cut in tiles of some rows by one panel, two vectors wide, or one where no more columns are
// left. The accumulators of a tile stay in registers while it walks down the common dimension;
// every step there takes the loads of B and one broadcast of A a row.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../parallel.h"
#include "../simd/vec.h"
#include "descent.h"
#include "gemm_panels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Rows of a tile of so many vectors: AVX-512 has 32 registers, the others 16.
template <int vectors>
inline constexpr int kTileRows = MAKEMORE_EXT_VECTOR_BYTES == 64 || vectors == 1 ? 12 : 6;

// Steps down the common dimension at a time: the panel of B and the lines of A that they touch fit
// into the first-level cache, and sums of sums round less than one long sum.
inline constexpr int64_t kDepth = 128;

// Rows of C in a piece of work, which packs its panels for itself.
inline constexpr int64_t kPieceRows = 192;

// c [rows, kPanel] = a b, plus start unless it is null; b, [depth, vectors * kLanes], has the first
// columns. With a descent that is the gradient, and is not written.
template <typename T, int rows, int vectors>
void multiply_tile(const Matrix<const T>& a, const T* b, int64_t b_stride, const T* start,
                   int64_t start_stride, T* c, int64_t c_stride, const Descent<T>* descent) {
  Vec<T> sum[rows][2] = {};
  // A pointer to every fourth row: four of them are reached from it with the strides that an
  // instruction can add, and no pointer has to wait on the stack.
  constexpr int kGroup = 4;
  const T* column[(rows + kGroup - 1) / kGroup];
  for (int r = 0; r < rows; r += kGroup) {
    column[r / kGroup] = a.row(r);
  }
  for (int64_t k = 0; k < a.columns; ++k) {
    Vec<T> b_row[vectors];
    for (int v = 0; v < vectors; ++v) {
      b_row[v] = load(b + v * kLanes<T>);
    }
    for (int r = 0; r < rows; ++r) {
      const T value = column[r / kGroup][r % kGroup * a.row_stride];
      for (int v = 0; v < vectors; ++v) {
        sum[r][v] += value * b_row[v];
      }
    }
    for (const T*& group : column) {
      group += a.column_stride;
    }
    b += b_stride;
  }
  if (start != nullptr) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < 2; ++v) {
        sum[r][v] += load(start + r * start_stride + v * kLanes<T>);
      }
    }
  }
  if (descent != nullptr) {
#pragma GCC unroll 12
    for (int r = 0; r < rows; ++r) {
      for (int v = 0; v < vectors; ++v) {
        descent->along(sum[r][v], c + r * c_stride + v * kLanes<T>);
      }
    }
    return;
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; ++r) {
    for (int v = 0; v < 2; ++v) {
      store(c + r * c_stride + v * kLanes<T>, sum[r][v]);
    }
  }
}

// The tile with as many rows as `a` has, at most `rows`.
template <typename T, int vectors, int rows = kTileRows<vectors>>
void multiply_any_tile(const Matrix<const T>& a, const T* b, int64_t b_stride, const T* start,
                       int64_t start_stride, T* c, int64_t c_stride, const Descent<T>* descent) {
  if (a.rows == rows) {
    multiply_tile<T, rows, vectors>(a, b, b_stride, start, start_stride, c, c_stride, descent);
  } else if constexpr (rows > 1) {
    multiply_any_tile<T, vectors, rows - 1>(a, b, b_stride, start, start_stride, c, c_stride,
                                            descent);
  }
}

// c = a b, plus `bias` [padded(b.columns)] in every row unless it is null. The rows of c are
// contiguous and have room for padded(b.columns) columns, all of which are written. Given a
// descent, which knows c as a gradient, its parameter is updated instead and c is left with nothing
// of use.
template <typename T>
void multiply(const Matrix<const T>& a, const Matrix<const T>& b, const T* bias, Matrix<T> c,
              const Descent<T>* descent = nullptr) {
  const int64_t panels = padded<T>(b.columns) / kPanel<T>;
  const int64_t blocks = (a.rows + kPieceRows - 1) / kPieceRows;

  const auto multiply_block = [&]<int vectors>(std::integral_constant<int, vectors>,
                                               int64_t first_row, int64_t rows, int64_t column) {
    const int64_t columns = std::min(vectors * kLanes<T>, b.columns - column);
    const bool in_place = b.column_stride == 1 && columns == vectors * kLanes<T>;
    alignas(64) T packed[kDepth * kPanel<T>];
    // Tiles of nearly equal height: a short one would wait for its few sums.
    const int64_t tiles = (rows + kTileRows<vectors> - 1) / kTileRows<vectors>;
    const int64_t shortest = rows / tiles, longer = rows % tiles;
    for (int64_t k = 0; k < a.columns; k += kDepth) {
      const int64_t depth = std::min(kDepth, a.columns - k);
      const Matrix<const T> b_rows{b.row(k), depth, b.columns, b.row_stride, b.column_stride};
      if (!in_place) {
        pack_panel<T>(b_rows, column, columns, packed);
      }
      const T* panel = in_place ? b_rows.data + column : packed;
      const int64_t panel_stride = in_place ? b.row_stride : kPanel<T>;
      int64_t row = first_row;
      for (int64_t tile = 0; tile < tiles; ++tile) {
        const int64_t tile_rows = shortest + (tile < longer ? 1 : 0);
        const Matrix<const T> a_tile{a.row(row) + k * a.column_stride, tile_rows, depth,
                                     a.row_stride, a.column_stride};
        T* c_tile = c.row(row) + column;
        const T* start = k > 0 ? c_tile : bias == nullptr ? nullptr : bias + column;
        multiply_any_tile<T, vectors>(a_tile, panel, panel_stride, start, k > 0 ? c.row_stride : 0,
                                      c_tile, c.row_stride,
                                      k + depth == a.columns ? descent : nullptr);
        row += tile_rows;
      }
    }
  };
  for_each_piece(blocks * panels, 1, a.rows * a.columns * b.columns / 64,
                 [&](int64_t piece, int64_t, int64_t) {
                   const int64_t first_row = piece / panels * kPieceRows;
                   const int64_t rows = std::min(kPieceRows, a.rows - first_row);
                   const int64_t column = piece % panels * kPanel<T>;
                   if (b.columns - column > kLanes<T>) {
                     multiply_block(std::integral_constant<int, 2>{}, first_row, rows, column);
                   } else {
                     multiply_block(std::integral_constant<int, 1>{}, first_row, rows, column);
                   }
                 });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
