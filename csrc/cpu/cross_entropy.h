// Cross entropy with class-index targets. For one row of logits x with target t and C classes
//
//   lse  = log(sum_c exp(x_c)) = max + log_sum,   log_sum = log(sum_c exp(x_c - max))
//   loss = (1 - s) w_t (lse - x_t) + s/C sum_c w_c (lse - x_c)
//
// with class weights w and label smoothing s. With p = softmax(x) = exp(x - max - log_sum) and W
// the sum of all w, the gradient of the loss is
//
//   dx_c = ((1 - s) w_t + s W/C) p_c - s/C w_c - (1 - s) w_t [c = t]
//
// Forward reads the logits once and keeps, per row, lse as the unevaluated sum max + log_sum in
// double: a confident row has log_sum near 0, which lse in one float could not hold. Backward reads
// the logits once more and writes the gradient. Sums are kept in double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels.h"
#include "parallel.h"
#include "scratch.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <typename T>
struct LogSumExp {
  T max;
  double log_sum;
};

template <typename T>
inline T maximum(const T* x, int64_t count) {
  const T lowest = -std::numeric_limits<T>::infinity();
  Vec<T> best = broadcast(lowest);
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    best = max<T>(load(x + i), best);
  }
  if (i < count) {
    best = max<T>(load_partial(x + i, count - i, lowest), best);
  }
  return horizontal_max<T>(best);
}

// sum_c exp(x_c - shift)
template <typename T>
inline double sum_exp(const T* x, int64_t count, T shift) {
  Wide<T> sum;
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    sum = sum + Wide<T>::from(exp<T>(load(x + i) - shift));
  }
  if (i < count) {
    const T lowest = -std::numeric_limits<T>::infinity();
    sum = sum + Wide<T>::from(exp<T>(load_partial(x + i, count - i, lowest) - shift));
  }
  return sum.sum();
}

// One read of the row from memory: a chunk is small enough to be still in the first-level cache
// when it is summed, after its maximum is known. A new maximum rescales what was summed before.
template <typename T>
LogSumExp<T> log_sum_exp(const T* x, int64_t classes) {
  constexpr int64_t kChunk = 8192 / sizeof(T);
  const T lowest = -std::numeric_limits<T>::infinity();
  T max = lowest;
  double sum = 0;
  for (int64_t begin = 0; begin < classes; begin += kChunk) {
    const int64_t count = std::min(kChunk, classes - begin);
    const T chunk_max = maximum(x + begin, count);
    if (chunk_max > max) {
      sum *= std::exp(static_cast<double>(max) - static_cast<double>(chunk_max));
      max = chunk_max;
    }
    // Without a finite or infinite maximum yet, any finite shift sums -inf to 0 and keeps a NaN.
    sum += sum_exp(x + begin, count, max == lowest ? T(0) : max);
  }
  return {max, std::log(sum)};
}

// sum_c w_c (x_c - max), for label smoothing.
template <typename T>
double sum_weighted(const T* x, const T* weight, int64_t classes, T max) {
  double sum = 0;
  for (int64_t c = 0; c < classes; ++c) {
    const double shifted = static_cast<double>(x[c]) - static_cast<double>(max);
    sum += weight == nullptr ? shifted : weight[c] * shifted;
  }
  return sum;
}

// A row of logits in contiguous memory: the row itself, or its copy in scratch.
template <typename T>
inline const T* contiguous_row(const Matrix<const T>& matrix, int64_t index, T* scratch) {
  const T* row = matrix.row(index);
  if (matrix.column_stride == 1) {
    return row;
  }
  for (int64_t c = 0; c < matrix.columns; ++c) {
    scratch[c] = row[c * matrix.column_stride];
  }
  return scratch;
}

// What every row of a call shares.
template <typename T>
struct Weighting {
  const T* weight;
  double sum;        // W, the sum of all class weights
  double on_target;  // 1 - s
  double on_class;   // s / C

  explicit Weighting(const CrossEntropyArguments<T>& arguments)
      : weight(arguments.weight),
        sum(static_cast<double>(arguments.logits.columns)),
        on_target(1 - arguments.label_smoothing),
        on_class(arguments.label_smoothing / static_cast<double>(arguments.logits.columns)) {
    if (weight != nullptr) {
      sum = 0;
      for (int64_t c = 0; c < arguments.logits.columns; ++c) {
        sum += weight[c];
      }
    }
  }
  double of(int64_t c) const { return weight == nullptr ? 1.0 : weight[c]; }
};

inline int64_t rows_per_piece(int64_t classes) {
  return std::max<int64_t>(1, 16384 / std::max<int64_t>(1, classes));
}

// target, or -1 for a row that is ignored.
template <typename T>
inline int64_t checked_target(const CrossEntropyArguments<T>& arguments, int64_t row) {
  const int64_t target = arguments.target[row];
  if (target == arguments.ignore_index) {
    return -1;
  }
  if (target < 0 || target >= arguments.logits.columns) {
    throw_target_out_of_range(target);
  }
  return target;
}

template <typename T>
void check_targets(const CrossEntropyArguments<T>& arguments) {
  for (int64_t row = 0; row < arguments.logits.rows; ++row) {
    checked_target(arguments, row);
  }
}

template <typename T>
void cross_entropy_forward(const CrossEntropyArguments<T>& arguments, T* loss, double* lse,
                           double* total_weight) {
  check_targets(arguments);  // before the threads start: an exception must not cross them
  const Matrix<const T>& logits = arguments.logits;
  const int64_t classes = logits.columns;
  const Weighting<T> weighting(arguments);
  const int64_t piece_size = rows_per_piece(classes);
  const int64_t pieces = (logits.rows + piece_size - 1) / piece_size;
  Scratch<double> piece_loss(pieces);
  Scratch<double> piece_weight(pieces);

  for_each_piece(logits.rows, piece_size, logits.rows * classes,
                 [&](int64_t piece, int64_t begin, int64_t end) {
                   Scratch<T> scratch(logits.column_stride == 1 ? 0 : classes);
                   double sum_loss = 0;
                   double sum_weight = 0;
                   for (int64_t i = begin; i < end; ++i) {
                     const T* x = contiguous_row(logits, i, scratch.data());
                     const LogSumExp<T> row = log_sum_exp(x, classes);
                     lse[i] = row.max;
                     lse[logits.rows + i] = row.log_sum;

                     double row_loss = 0;
                     const int64_t target = checked_target(arguments, i);
                     if (target >= 0) {
                       const double weight = weighting.of(target);
                       const double shifted =
                           static_cast<double>(x[target]) - static_cast<double>(row.max);
                       row_loss = weighting.on_target * weight * (row.log_sum - shifted);
                       if (weighting.on_class != 0) {
                         row_loss += weighting.on_class *
                                     (weighting.sum * row.log_sum -
                                      sum_weighted(x, weighting.weight, classes, row.max));
                       }
                       sum_weight += weight;
                     }
                     sum_loss += row_loss;
                     if (arguments.reduction == Reduction::none) {
                       loss[i] = static_cast<T>(row_loss);
                     }
                   }
                   piece_loss.data()[piece] = sum_loss;
                   piece_weight.data()[piece] = sum_weight;
                 });

  double sum_loss = 0;
  double sum_weight = 0;
  for (int64_t piece = 0; piece < pieces; ++piece) {
    sum_loss += piece_loss.data()[piece];
    sum_weight += piece_weight.data()[piece];
  }
  *total_weight = sum_weight;
  if (arguments.reduction != Reduction::none) {
    const double divisor = arguments.reduction == Reduction::mean ? sum_weight : 1.0;
    *loss = static_cast<T>(sum_loss / divisor);
  }
}

// gradient_c = factor exp(x_c - max) - offset_c, where offset_c = offset * (weight_c or 1).
template <typename T>
inline Vec<T> softmax_gradient(Vec<T> x, T max, T factor, T offset, const T* weight) {
  const Vec<T> scaled = exp<T>(x - max) * factor;
  if (offset == T(0)) {
    return scaled;
  }
  return scaled - (weight == nullptr ? broadcast(offset) : load(weight) * offset);
}

template <typename T>
void softmax_gradient_row(const T* x, T* gradient, int64_t classes, T max, T factor, T offset,
                          const T* weight) {
  int64_t c = 0;
  for (; c + kLanes<T> <= classes; c += kLanes<T>) {
    const T* w = weight == nullptr ? nullptr : weight + c;
    store(gradient + c, softmax_gradient(load(x + c), max, factor, offset, w));
  }
  if (c < classes) {
    const int64_t rest = classes - c;
    T tail_weight[kLanes<T>] = {};
    const T* w = weight == nullptr ? nullptr : tail_weight;
    for (int64_t lane = 0; w != nullptr && lane < rest; ++lane) {
      tail_weight[lane] = weight[c + lane];
    }
    const Vec<T> tail = load_partial(x + c, rest, T(0));
    store_partial(gradient + c, softmax_gradient(tail, max, factor, offset, w), rest);
  }
}

template <typename T>
void cross_entropy_backward(const CrossEntropyArguments<T>& arguments, Vector<const T> grad_output,
                            const double* lse, double total_weight, Matrix<T> grad_input) {
  check_targets(arguments);
  const Matrix<const T>& logits = arguments.logits;
  const int64_t classes = logits.columns;
  const Weighting<T> weighting(arguments);
  const double divisor = arguments.reduction == Reduction::mean ? total_weight : 1.0;

  for_each_piece(
      logits.rows, rows_per_piece(classes), logits.rows * classes,
      [&](int64_t, int64_t begin, int64_t end) {
        Scratch<T> scratch(logits.column_stride == 1 ? 0 : classes);
        Scratch<T> result(grad_input.column_stride == 1 ? 0 : classes);
        for (int64_t i = begin; i < end; ++i) {
          const T* x = contiguous_row(logits, i, scratch.data());
          T* gradient = grad_input.column_stride == 1 ? grad_input.row(i) : result.data();
          const double max = lse[i];
          const double log_sum = lse[logits.rows + i];
          const int64_t target = checked_target(arguments, i);

          // An ignored row has factor 0, which leaves 0, and NaN where softmax itself is NaN.
          const double upstream = target < 0 ? 0.0 : static_cast<double>(grad_output[i]) / divisor;
          const double weight = target < 0 ? 0.0 : weighting.on_target * weighting.of(target);
          const double factor = upstream * (weight + weighting.on_class * weighting.sum);
          const double offset = upstream * weighting.on_class;
          const double logit = target < 0 ? 0.0 : x[target];
          softmax_gradient_row(x, gradient, classes, static_cast<T>(max),
                               static_cast<T>(factor * std::exp(-log_sum)), static_cast<T>(offset),
                               weighting.weight);
          if (target >= 0) {
            // p - 1 = expm1(log p) keeps its digits where p is close to 1.
            const double log_p = logit - max - log_sum;
            gradient[target] =
                static_cast<T>(upstream * weight * std::expm1(log_p) +
                               offset * (weighting.sum * std::exp(log_p) - weighting.of(target)));
          }
          if (grad_input.column_stride != 1) {
            T* destination = grad_input.row(i);
            for (int64_t c = 0; c < classes; ++c) {
              destination[c * grad_input.column_stride] = gradient[c];
            }
          }
        }
      });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
