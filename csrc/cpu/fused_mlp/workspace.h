// The memory that the fused MLP works in.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "gemm_panels.h"
#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Everything a step works on, in one piece of memory. Matrices are padded, as multiply() needs what
// it writes to be; vectors among the parameters are matrices of one row.
template <typename T>
struct Workspace {
  Matrix<T> embedding;                   // [slots, D], C[v] of each slot
  Matrix<T> table;                       // [slots, H], S and then dS
  Matrix<T> centred;                     // [n, H], hprebn less the mean of each column
  Matrix<T> h;                           // [n, H]
  Matrix<T> dh;                          // [n, H]
  Matrix<T> logits;                      // [n, V], and then their gradient; -inf in the padding
  Matrix<T> dembedding;                  // [slots, D]
  Matrix<T> parameters[kMLPParameters];  // padded with 0, but b2 with -inf
  Matrix<T> momentum_buffers[kMLPParameters];  // laid out as the parameters are, as are
  Matrix<T> gradients[kMLPParameters];         // the gradients; that of b1 stays 0
  double* invstd;                              // [H]
  double* losses;                              // [n]
  int32_t* slot;                               // [n, K], the slot of each window's character
  int32_t* slot_of;     // [K, V], 1 + slot while a step runs, 0 where there is none
  int64_t* character;   // [slots + 1], C's row of each slot; the last is of no use
  int64_t* first_slot;  // [K + 1], position k has the slots from first_slot[k] on
  int64_t* target;      // [n]
  int64_t bytes;

  // Lays the arrays out from `memory` on, which is aligned to a cache line; null only counts bytes.
  Workspace(const MLPSizes& sizes, int64_t n, void* memory) : bytes(0) {
    const auto [V, K, D, H] = sizes;
    const int64_t slots = K * std::min(n, V);
    const auto take = [&]<typename U>(U*& array, int64_t count) {
      array = memory == nullptr ? nullptr
                                : reinterpret_cast<U*>(static_cast<std::byte*>(memory) + bytes);
      bytes += round_up(count * static_cast<int64_t>(sizeof(U)), 64);
    };
    const auto take_matrix = [&](Matrix<T>& matrix, int64_t rows, int64_t columns) {
      const int64_t stride = padded_stride<T>(columns);
      matrix = {nullptr, rows, columns, stride, 1};
      take(matrix.data, rows * stride);
    };
    take_matrix(embedding, slots, D);
    take_matrix(table, slots, H);
    take_matrix(centred, n, H);
    take_matrix(h, n, H);
    take_matrix(dh, n, H);
    take_matrix(logits, n, V);
    take_matrix(dembedding, slots, D);
    for (auto* of : {parameters, momentum_buffers, gradients}) {
      take_matrix(of[kC], V, D);
      take_matrix(of[kW1], K * D, H);
      take_matrix(of[kB1], 1, H);
      take_matrix(of[kW2], H, V);
      take_matrix(of[kB2], 1, V);
      take_matrix(of[kBngain], 1, H);
      take_matrix(of[kBnbias], 1, H);
    }
    take(invstd, padded<T>(H));
    take(losses, n);
    take(slot, K * n);
    take(slot_of, K * V);
    take(character, slots + 1);
    take(first_slot, K + 1);
    take(target, n);
  }
};

template <typename T>
Matrix<const T> transposed(const Matrix<const T>& m) {
  return {m.data, m.columns, m.rows, m.column_stride, m.row_stride};
}

// A matrix of the workspace to read, with as much of its padding as makes whole vectors.
template <typename T>
Matrix<const T> whole_vectors(const Matrix<T>& m) {
  return {m.data, m.rows, round_up(m.columns, kLanes<T>), m.row_stride, m.column_stride};
}

template <typename T>
Matrix<const T> read_only(const Matrix<T>& m) {
  return {m.data, m.rows, m.columns, m.row_stride, m.column_stride};
}

// Copies contiguous arrays to matrices of the workspace. The padding is written too: steps that
// diverged may have left in it what is not a number.
template <typename T>
void copy_in(const MLPArrays<T>& arrays, const Matrix<T>* matrices) {
  for (int parameter = 0; parameter < kMLPParameters; ++parameter) {
    const Matrix<T>& to = matrices[parameter];
    for (int64_t row = 0; row < to.rows; ++row) {
      const T* from = arrays[parameter] + row * to.columns;
      T* const end = std::copy_n(from, to.columns, to.row(row));
      std::fill(end, to.row(row) + to.row_stride, T(0));
    }
  }
}

template <typename T>
void copy_out(const Matrix<T>* matrices, const MLPArrays<T>& arrays) {
  for (int parameter = 0; parameter < kMLPParameters; ++parameter) {
    const Matrix<T>& from = matrices[parameter];
    for (int64_t row = 0; row < from.rows; ++row) {
      std::copy_n(from.row(row), from.columns, arrays[parameter] + row * from.columns);
    }
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
