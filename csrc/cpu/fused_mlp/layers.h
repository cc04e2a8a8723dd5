// What lies between the matrix products of the fused MLP: the hidden layer's gather, batch norm and
// tanh, and the cross entropy. Matrices are padded as multiply() leaves them, so that only whole
// vectors are touched.
//
// With c = x - mean, the batch norm of a column x of n rows is z = gain c invstd + bias, where
// invstd = 1 / sqrt(sum c^2 / (n - 1) + eps). Backward, batch_norm/batch_norm.cpp derives
//
//   dx = gain invstd (dz - sum dz / n - c invstd^2 sum(dz c) / (n - 1))
//
// Sums are kept in double, over the sums of a few neighbours: one conversion serves them all.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "../simd/elementary.h"
#include "../simd/reduce.h"
#include "../simd/vec.h"
#include "../simd/wide.h"
#include "gemm.h"
#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Everything the hidden layer reads and writes; vectors are padded as the rows of matrices are.
template <typename T>
struct HiddenLayer {
  const int32_t* slot;  // [n, K]
  int64_t context;      // K
  Matrix<T> table;      // [slots, H]: a window's row of x is the sum of those of its K slots and b1
  Matrix<T> centred;    // [n, H], c
  Matrix<T> h;          // [n, H]
  Matrix<T> dh;         // [n, H]
  const T* b1;          // [H]; so are the others
  const T* bngain;
  const T* bnbias;
  double* invstd;
  T* dbngain;
  T* dbnbias;
};

inline constexpr double kBatchNormEps = 1e-5;

// Adds up what `term(i, sums)` adds to each of `count` vectors for every row i of n. Inlined, so
// that the sums stay in registers.
template <typename T, int count, typename Term>
MAKEMORE_EXT_INLINE void sum_over_rows(int64_t n, Wide<T> (&sums)[count], const Term& term) {
  constexpr int64_t kNeighbours = 4;
  for (int64_t first = 0; first < n; first += kNeighbours) {
    Vec<T> few[count] = {};
    for (int64_t i = first; i < std::min(first + kNeighbours, n); ++i) {
      term(i, few);
    }
    for (int v = 0; v < count; ++v) {
      sums[v] = sums[v] + Wide<T>::from(few[v]);
    }
  }
}

// The lanes of adjacent vectors, one after another.
template <typename T, int count>
void spread(const Wide<T> (&sums)[count], double* values) {
  for (int v = 0; v < count; ++v) {
    sums[v].store(values + v * kLanes<T>);
  }
}

// A panel's columns of a matrix. By value, which tells the compiler that no store changes them.
template <typename T>
struct PanelColumns {
  T* data;
  int64_t stride;

  PanelColumns(const Matrix<T>& m, int64_t column) : data(m.data + column), stride(m.row_stride) {}
  // Vector v of row i.
  T* at(int64_t i, int v) const { return data + i * stride + v * kLanes<T>; }
};

// One panel of columns, through the forward pass.
template <typename T>
void hidden_forward(const HiddenLayer<T>& layer, int64_t column) {
  const int64_t n = layer.h.rows, context = layer.context;
  const int32_t* const slots = layer.slot;
  const PanelColumns<T> table(layer.table, column), centred(layer.centred, column),
      h(layer.h, column);
  Wide<T> sum[2];
  const Vec<T> b1[2] = {load(layer.b1 + column), load(layer.b1 + column + kLanes<T>)};
  sum_over_rows<T>(n, sum, [=](int64_t i, Vec<T>(&few)[2]) {
    Vec<T> x[2] = {b1[0], b1[1]};
    for (int64_t k = 0; k < context; ++k) {
      const int64_t slot = slots[i * context + k];
      x[0] += load(table.at(slot, 0));
      x[1] += load(table.at(slot, 1));
    }
    for (int v = 0; v < 2; ++v) {
      store(centred.at(i, v), x[v]);
      few[v] += x[v];
    }
  });

  // The mean in two parts: what is left of x - mean is exact but for the last subtraction.
  Vec<T> mean[2], rest[2];
  for (int v = 0; v < 2; ++v) {
    const Wide<T> exact = sum[v] * Wide<T>::of(1 / static_cast<double>(n));
    mean[v] = narrow(exact);
    rest[v] = narrow(exact - Wide<T>::from(mean[v]));
  }
  Wide<T> squares[2];
  sum_over_rows<T>(n, squares, [=](int64_t i, Vec<T>(&few)[2]) {
    for (int v = 0; v < 2; ++v) {
      const Vec<T> c = (load(centred.at(i, v)) - mean[v]) - rest[v];
      store(centred.at(i, v), c);
      few[v] += c * c;
    }
  });

  double sum_squares[kPanel<T>];
  T scale[kPanel<T>];
  spread<T>(squares, sum_squares);
  for (int64_t j = 0; j < kPanel<T>; ++j) {
    const double variance = sum_squares[j] / static_cast<double>(n - 1);
    layer.invstd[column + j] = 1 / std::sqrt(variance + kBatchNormEps);
    scale[j] = static_cast<T>(layer.invstd[column + j] * layer.bngain[column + j]);
  }
  const Vec<T> factor[2] = {load(scale), load(scale + kLanes<T>)};
  const Vec<T> bias[2] = {load(layer.bnbias + column), load(layer.bnbias + column + kLanes<T>)};
  for (int64_t i = 0; i < n; ++i) {
    for (int v = 0; v < 2; ++v) {
      store(h.at(i, v), tanh<T>(load(centred.at(i, v)) * factor[v] + bias[v]));
    }
  }
}

// One panel of columns, backward: from dh to the gradients of gain, bias and, in `table`, of the
// slots' rows. dh is overwritten.
template <typename T>
void hidden_backward(const HiddenLayer<T>& layer, int64_t slots, int64_t column) {
  const int64_t n = layer.h.rows, context = layer.context;
  const int32_t* const slot = layer.slot;
  const PanelColumns<T> table(layer.table, column), centred(layer.centred, column),
      h(layer.h, column), dh(layer.dh, column);
  Wide<T> sums[4];  // of dz and of dz c
  sum_over_rows<T>(n, sums, [=](int64_t i, Vec<T>(&few)[4]) {
    for (int v = 0; v < 2; ++v) {
      const Vec<T> y = load(h.at(i, v));
      // 1 - y^2 without cancellation near |y| = 1.
      const Vec<T> dz = load(dh.at(i, v)) * ((T(1) - y) * (T(1) + y));
      store(dh.at(i, v), dz);
      few[v] += dz;
      few[2 + v] += dz * load(centred.at(i, v));
    }
  });

  double sum_dz[2 * kPanel<T>];
  spread<T>(sums, sum_dz);
  const double* sum_dz_c = sum_dz + kPanel<T>;
  T scales[kPanel<T>], shifts[kPanel<T>], slopes[kPanel<T>];
  for (int64_t j = 0; j < kPanel<T>; ++j) {
    const double invstd = layer.invstd[column + j];
    layer.dbngain[column + j] = static_cast<T>(sum_dz_c[j] * invstd);
    layer.dbnbias[column + j] = static_cast<T>(sum_dz[j]);
    scales[j] = static_cast<T>(invstd * layer.bngain[column + j]);
    shifts[j] = static_cast<T>(sum_dz[j] / static_cast<double>(n));
    slopes[j] = static_cast<T>(sum_dz_c[j] * invstd * invstd / static_cast<double>(n - 1));
  }

  for (int64_t s = 0; s < slots; ++s) {
    store(table.at(s, 0), Vec<T>{});
    store(table.at(s, 1), Vec<T>{});
  }
  const Vec<T> scale[2] = {load(scales), load(scales + kLanes<T>)};
  const Vec<T> shift[2] = {load(shifts), load(shifts + kLanes<T>)};
  const Vec<T> slope[2] = {load(slopes), load(slopes + kLanes<T>)};
  for (int64_t i = 0; i < n; ++i) {
    Vec<T> dx[2];
    for (int v = 0; v < 2; ++v) {
      const Vec<T> c = load(centred.at(i, v));
      dx[v] = scale[v] * (load(dh.at(i, v)) - shift[v] - c * slope[v]);
    }
    for (int64_t k = 0; k < context; ++k) {
      const int64_t s = slot[i * context + k];
      store(table.at(s, 0), load(table.at(s, 0)) + dx[0]);
      store(table.at(s, 1), load(table.at(s, 1)) + dx[1]);
    }
  }
}

// The sums of a padded matrix's columns.
template <typename T>
void sum_rows(const Matrix<T>& m, T* sums) {
  for (int64_t column = 0; column < m.columns; column += kLanes<T>) {
    Wide<T> sum;
    for (int64_t row = 0; row < m.rows; ++row) {
      sum = sum + Wide<T>::from(load(m.row(row) + column));
    }
    for (int64_t lane = 0; lane < kLanes<T>; ++lane) {
      sums[column + lane] = static_cast<T>(sum.lane(lane));
    }
  }
}

inline constexpr int64_t kLossRows = 16;

// Turns rows [begin, end) of padded logits x, at most kLossRows, into their gradient
// (softmax(x) - onehot(target)) / n, and writes their losses, log(sum_c exp(x_c)) - x_target.
template <typename T>
void cross_entropy_rows(const Matrix<T>& logits, const int64_t* targets, int64_t begin, int64_t end,
                        double* losses) {
  const double n = static_cast<double>(logits.rows);
  const int64_t columns = padded<T>(logits.columns);
  alignas(64) double sums[kLossRows];
  std::fill(sums, sums + kLossRows, 1.0);
  for (int64_t i = begin; i < end; ++i) {
    T* x = logits.row(i);
    T& at_target = x[targets[i]];
    const T max = maximum<T>(x, columns);
    losses[i] = static_cast<double>(max) - static_cast<double>(at_target);
    Wide<T> wide_sum;
    for (int64_t c = 0; c < columns; c += kLanes<T>) {
      const Vec<T> value = exp_nonpositive<T>(load(x + c) - max);
      store(x + c, value);
      wide_sum = wide_sum + Wide<T>::from(value);
    }
    const double sum = wide_sum.sum();
    // In double, since it cancels where the target is nearly certain.
    const double target_gradient = (static_cast<double>(at_target) - sum) / (sum * n);
    const T scale = static_cast<T>(1 / (sum * n));
    for (int64_t c = 0; c < columns; c += kLanes<T>) {
      store(x + c, load(x + c) * scale);
    }
    at_target = static_cast<T>(target_gradient);
    sums[i - begin] = sum;
  }
  for (int64_t i = 0; i < kLossRows; i += kLanes<double>) {
    store(sums + i, log<double>(load(sums + i)));
  }
  for (int64_t i = begin; i < end; ++i) {
    losses[i] += sums[i - begin];
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
