// What lies between the matrix products of the fused MLP: the hidden layer's gather, batch norm and
// tanh, and the cross entropy. Matrices are padded as multiply() leaves them, so that only whole
// vectors are touched.
//
// With c = x - mean, the batch norm of a column x of n rows is z = gain c invstd + bias, where
// invstd = 1 / sqrt(sum c^2 / (n - 1) + eps). Backward, batch_norm.h derives
//
//   dx = gain invstd (dz - sum dz / n - c invstd^2 sum(dz c) / (n - 1))
//
// Sums are kept in double, over the sums of a few neighbours: one conversion serves them all.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "cross_entropy_rows.h"
#include "elementary.h"
#include "gemm.h"
#include "kernels.h"
#include "vec.h"

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

// Adds up what `term(i, sums)` adds to each of `count` vectors for every row i of n.
template <typename T, int count, typename Term>
void sum_over_rows(int64_t n, Wide<T> (&sums)[count], const Term& term) {
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

// One panel of columns, through the forward pass.
template <typename T>
void hidden_forward(HiddenLayer<T> layer, int64_t column) {
  const int64_t n = layer.h.rows;
  Wide<T> sum[2];
  const Vec<T> b1[2] = {load(layer.b1 + column), load(layer.b1 + column + kLanes<T>)};
  sum_over_rows<T>(n, sum, [&](int64_t i, Vec<T>(&few)[2]) {
    Vec<T> x[2] = {b1[0], b1[1]};
    for (int64_t k = 0; k < layer.context; ++k) {
      const T* row = layer.table.row(layer.slot[i * layer.context + k]) + column;
      x[0] += load(row);
      x[1] += load(row + kLanes<T>);
    }
    for (int v = 0; v < 2; ++v) {
      store(layer.centred.row(i) + column + v * kLanes<T>, x[v]);
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
  sum_over_rows<T>(n, squares, [&](int64_t i, Vec<T>(&few)[2]) {
    T* row = layer.centred.row(i) + column;
    for (int v = 0; v < 2; ++v) {
      const Vec<T> centred = (load(row + v * kLanes<T>) - mean[v]) - rest[v];
      store(row + v * kLanes<T>, centred);
      few[v] += centred * centred;
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
    const T* row = layer.centred.row(i) + column;
    for (int v = 0; v < 2; ++v) {
      store(layer.h.row(i) + column + v * kLanes<T>,
            tanh<T>(load(row + v * kLanes<T>) * factor[v] + bias[v]));
    }
  }
}

// One panel of columns, backward: from dh to the gradients of gain, bias and, in `table`, of the
// slots' rows. dh is overwritten.
template <typename T>
void hidden_backward(HiddenLayer<T> layer, int64_t slots, int64_t column) {
  const int64_t n = layer.h.rows;
  Wide<T> sums[4];  // of dz and of dz c
  sum_over_rows<T>(n, sums, [&](int64_t i, Vec<T>(&few)[4]) {
    for (int v = 0; v < 2; ++v) {
      const int64_t at = column + v * kLanes<T>;
      const Vec<T> h = load(layer.h.row(i) + at);
      // 1 - h^2 without cancellation near |h| = 1.
      const Vec<T> dz = load(layer.dh.row(i) + at) * ((T(1) - h) * (T(1) + h));
      store(layer.dh.row(i) + at, dz);
      few[v] += dz;
      few[2 + v] += dz * load(layer.centred.row(i) + at);
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

  for (int64_t slot = 0; slot < slots; ++slot) {
    store(layer.table.row(slot) + column, Vec<T>{});
    store(layer.table.row(slot) + column + kLanes<T>, Vec<T>{});
  }
  const Vec<T> scale[2] = {load(scales), load(scales + kLanes<T>)};
  const Vec<T> shift[2] = {load(shifts), load(shifts + kLanes<T>)};
  const Vec<T> slope[2] = {load(slopes), load(slopes + kLanes<T>)};
  for (int64_t i = 0; i < n; ++i) {
    Vec<T> dx[2];
    for (int v = 0; v < 2; ++v) {
      const int64_t at = column + v * kLanes<T>;
      const Vec<T> c = load(layer.centred.row(i) + at);
      dx[v] = scale[v] * (load(layer.dh.row(i) + at) - shift[v] - c * slope[v]);
    }
    for (int64_t k = 0; k < layer.context; ++k) {
      T* row = layer.table.row(layer.slot[i * layer.context + k]) + column;
      store(row, load(row) + dx[0]);
      store(row + kLanes<T>, load(row + kLanes<T>) + dx[1]);
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
