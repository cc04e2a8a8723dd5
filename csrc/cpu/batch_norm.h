// Batch norm over the rows of a matrix, one set of statistics per column (channel):
//
//   mean = sum x / n,  var = sum (x - mean)^2 / (n - correction),  invstd = 1 / sqrt(var + eps)
//   z = (x - mean) invstd weight + bias,  y = activation(z)
//
// Backward, with dz the gradient of z and xhat = (x - mean) invstd:
//
//   dbias = sum dz,  dweight = sum dz xhat
//   dx = weight invstd (dz - dbias / n - xhat dweight / (n - correction))   in training
//   dx = weight invstd dz                                                   in evaluation
//
// The two subtracted terms are what mean and var, as functions of x, feed back.
//
// Columns are worked on in strips one cache line wide, each read several times while it is in
// cache. Statistics are summed in double and in two passes, so neither a large mean nor an outlying
// row costs digits. mean is kept in double and subtracted from a float in two parts: the high part
// without rounding where x is near it, then what the high part lacks.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

#include "elementary.h"
#include "kernels.h"
#include "parallel.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Adjacent whole vectors of one row of a matrix whose columns are contiguous.
template <typename T, int vectors>
struct ContiguousStrip {
  static constexpr int kVectors = vectors;

  static Vec<T> load(const Matrix<const T>& matrix, int64_t row, int64_t column, int64_t) {
    return cpu::MAKEMORE_EXT_CAPABILITY::load(matrix.row(row) + column);
  }
  static void store(const Matrix<T>& matrix, int64_t row, int64_t column, Vec<T> value, int64_t) {
    cpu::MAKEMORE_EXT_CAPABILITY::store(matrix.row(row) + column, value);
  }
};

// `count` columns, at most one vector of them, anywhere in memory.
template <typename T>
struct GeneralStrip {
  static constexpr int kVectors = 1;

  static Vec<T> load(const Matrix<const T>& matrix, int64_t row, int64_t column, int64_t count) {
    const T* source = matrix.row(row) + column * matrix.column_stride;
    Vec<T> result{};
    for (int64_t lane = 0; lane < count; ++lane) {
      result[lane] = source[lane * matrix.column_stride];
    }
    return result;
  }
  static void store(const Matrix<T>& matrix, int64_t row, int64_t column, Vec<T> value,
                    int64_t count) {
    T* destination = matrix.row(row) + column * matrix.column_stride;
    for (int64_t lane = 0; lane < count; ++lane) {
      destination[lane * matrix.column_stride] = value[lane];
    }
  }
};

// Calls body(strip type, first column, columns) over all columns, cut so that most strips are
// contiguous whole cache lines; the general strip takes the rest.
template <typename T, typename Body>
void for_each_strip(int64_t rows, int64_t columns, bool contiguous, const Body& body) {
  constexpr int64_t kLine = 64 / sizeof(T);
  constexpr int kLineVectors = static_cast<int>(kLine / kLanes<T>);
  for_each_piece(columns, kLine, rows * columns, [&](int64_t, int64_t begin, int64_t end) {
    if (contiguous && end - begin == kLine) {
      body(ContiguousStrip<T, kLineVectors>{}, begin, kLine);
      return;
    }
    for (int64_t column = begin; column < end; column += kLanes<T>) {
      const int64_t count = std::min(kLanes<T>, end - column);
      if (contiguous && count == kLanes<T>) {
        body(ContiguousStrip<T, 1>{}, column, count);
      } else {
        body(GeneralStrip<T>{}, column, count);
      }
    }
  });
}

// One parameter for each lane of each vector of a strip; lanes past the last column hold 0.
template <typename T, int vectors>
struct Parameters {
  Vec<T> lanes[vectors];

  template <typename Value>
  static Parameters fill(int64_t count, const Value& value) {
    Parameters result{};
    for (int64_t i = 0; i < count; ++i) {
      result.lanes[i / kLanes<T>][i % kLanes<T>] = static_cast<T>(value(i));
    }
    return result;
  }
};

// x - mean, exactly rounded but for the last step where x is near mean.
template <typename T, int vectors>
struct Centre {
  Parameters<T, vectors> high;
  Parameters<T, vectors> low;

  Centre(const double* mean, int64_t count)
      : high(Parameters<T, vectors>::fill(count, [&](int64_t i) { return mean[i]; })),
        low(Parameters<T, vectors>::fill(count, [&](int64_t i) {
          return mean[i] - static_cast<double>(static_cast<T>(mean[i]));
        })) {}
  Vec<T> subtract_from(Vec<T> x, int v) const { return (x - high.lanes[v]) - low.lanes[v]; }
};

template <typename T>
inline double value_or(const T* parameter, int64_t channel, double fallback) {
  return parameter == nullptr ? fallback : static_cast<double>(parameter[channel]);
}

template <typename T>
inline Vec<T> activate(Vec<T> z, Activation activation) {
  switch (activation) {
    case Activation::tanh:
      return tanh<T>(z);
    case Activation::relu:
      return z < T(0) ? broadcast(T(0)) : z;  // a NaN stays
    default:
      return z;
  }
}

// The gradient before the activation, from the one after it and the activation's output y.
template <typename T>
inline Vec<T> activate_backward(Vec<T> grad, Vec<T> y, Activation activation) {
  switch (activation) {
    case Activation::tanh:
      return grad * ((T(1) - y) * (T(1) + y));  // 1 - y^2 without cancellation near |y| = 1
    case Activation::relu:
      return y <= T(0) ? broadcast(T(0)) : grad;  // a NaN passes the gradient on, as in torch
    default:
      return grad;
  }
}

// Mean and variance of the strip at column: arrays over channels, from there on.
template <typename Strip, typename T>
void strip_statistics(const BatchNormArguments<T>& arguments, int64_t column, int64_t count,
                      double* mean, double* variance) {
  const Matrix<const T>& input = arguments.input;
  const double rows = static_cast<double>(input.rows);

  Wide<T> sum[Strip::kVectors] = {};
  for (int64_t row = 0; row < input.rows; ++row) {
    for (int v = 0; v < Strip::kVectors; ++v) {
      sum[v] = sum[v] + Wide<T>::from(Strip::load(input, row, column + v * kLanes<T>, count));
    }
  }
  Wide<T> centre[Strip::kVectors];
  const Wide<T> reciprocal = Wide<T>::of(1 / rows);
  for (int v = 0; v < Strip::kVectors; ++v) {
    centre[v] = sum[v] * reciprocal;
  }

  Wide<T> squares[Strip::kVectors] = {};
  for (int64_t row = 0; row < input.rows; ++row) {
    for (int v = 0; v < Strip::kVectors; ++v) {
      const Wide<T> difference =
          Wide<T>::from(Strip::load(input, row, column + v * kLanes<T>, count)) - centre[v];
      squares[v] = squares[v] + difference * difference;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    mean[i] = centre[i / kLanes<T>].lane(i % kLanes<T>);
    variance[i] = squares[i / kLanes<T>].lane(i % kLanes<T>) / (rows - arguments.correction);
  }
}

template <typename Strip, typename T>
void strip_normalize(const BatchNormArguments<T>& arguments, int64_t column, int64_t count,
                     const double* mean, const double* invstd, const Matrix<T>& output) {
  using StripParameters = Parameters<T, Strip::kVectors>;
  const Centre<T, Strip::kVectors> centre(mean + column, count);
  const auto scale = StripParameters::fill(count, [&](int64_t i) {
    return invstd[column + i] * value_or(arguments.weight, column + i, 1.0);
  });
  const auto bias = StripParameters::fill(
      count, [&](int64_t i) { return value_or(arguments.bias, column + i, 0.0); });

  for (int64_t row = 0; row < arguments.input.rows; ++row) {
    for (int v = 0; v < Strip::kVectors; ++v) {
      const int64_t at = column + v * kLanes<T>;
      const Vec<T> x = Strip::load(arguments.input, row, at, count);
      const Vec<T> z = centre.subtract_from(x, v) * scale.lanes[v] + bias.lanes[v];
      Strip::store(output, row, at, activate<T>(z, arguments.activation), count);
    }
  }
}

// statistics [3, channels], one array for each row.
template <typename Value>
struct Statistics {
  Value* mean;
  Value* variance;
  Value* invstd;

  Statistics(Value* statistics, int64_t channels)
      : mean(statistics), variance(mean + channels), invstd(variance + channels) {}
};

template <typename T>
void batch_norm_forward(const BatchNormArguments<T>& arguments, bool training, double* statistics,
                        Matrix<T> output) {
  const Matrix<const T>& input = arguments.input;
  const Statistics<double> s(statistics, input.columns);
  const bool contiguous = input.column_stride == 1 && output.column_stride == 1;
  for_each_strip<T>(
      input.rows, input.columns, contiguous, [&](auto strip, int64_t column, int64_t count) {
        using Strip = decltype(strip);
        if (training) {
          strip_statistics<Strip>(arguments, column, count, s.mean + column, s.variance + column);
        }
        for (int64_t c = column; c < column + count; ++c) {
          s.invstd[c] = 1 / std::sqrt(s.variance[c] + arguments.eps);
        }
        strip_normalize<Strip>(arguments, column, count, s.mean, s.invstd, output);
      });
}

template <typename T>
struct GradientSource {
  const BatchNormArguments<T>& arguments;
  Matrix<const T> grad_output;
  Matrix<const T> output;

  // dz at one vector of a strip.
  template <typename Strip>
  Vec<T> load(int64_t row, int64_t column, int64_t count) const {
    const Vec<T> grad = Strip::load(grad_output, row, column, count);
    if (arguments.activation == Activation::none) {
      return grad;
    }
    return activate_backward<T>(grad, Strip::load(output, row, column, count),
                                arguments.activation);
  }
};

// sum dz and sum dz (x - mean) for each column of the strip.
template <typename Strip, typename T>
void strip_gradient_sums(const GradientSource<T>& source, int64_t column, int64_t count,
                         const double* mean, double* sum_grad, double* sum_grad_x) {
  const Matrix<const T>& input = source.arguments.input;
  Wide<T> centre[Strip::kVectors] = {};
  for (int64_t i = 0; i < count; ++i) {
    centre[i / kLanes<T>].set_lane(i % kLanes<T>, mean[column + i]);
  }
  Wide<T> grads[Strip::kVectors] = {};
  Wide<T> products[Strip::kVectors] = {};
  for (int64_t row = 0; row < input.rows; ++row) {
    for (int v = 0; v < Strip::kVectors; ++v) {
      const int64_t at = column + v * kLanes<T>;
      const Wide<T> dz = Wide<T>::from(source.template load<Strip>(row, at, count));
      const Wide<T> x = Wide<T>::from(Strip::load(input, row, at, count));
      grads[v] = grads[v] + dz;
      products[v] = products[v] + dz * (x - centre[v]);
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    sum_grad[i] = grads[i / kLanes<T>].lane(i % kLanes<T>);
    sum_grad_x[i] = products[i / kLanes<T>].lane(i % kLanes<T>);
  }
}

template <typename T>
void batch_norm_backward(const BatchNormArguments<T>& arguments, bool training,
                         const double* statistics, Matrix<const T> grad_output,
                         Matrix<const T> output, Matrix<T> grad_input, T* grad_weight,
                         T* grad_bias) {
  const Matrix<const T>& input = arguments.input;
  const Statistics<const double> s(statistics, input.columns);
  const bool contiguous = input.column_stride == 1 && grad_output.column_stride == 1 &&
                          grad_input.column_stride == 1 &&
                          (output.data == nullptr || output.column_stride == 1);
  const GradientSource<T> source{arguments, grad_output, output};
  const double rows = static_cast<double>(input.rows);

  for_each_strip<T>(
      input.rows, input.columns, contiguous, [&](auto strip, int64_t column, int64_t count) {
        using Strip = decltype(strip);
        using StripParameters = Parameters<T, Strip::kVectors>;
        constexpr int64_t kMost = Strip::kVectors * kLanes<T>;
        double sum_grad[kMost];
        double sum_grad_x[kMost];
        strip_gradient_sums<Strip>(source, column, count, s.mean, sum_grad, sum_grad_x);
        for (int64_t i = 0; i < count; ++i) {
          grad_weight[column + i] = static_cast<T>(sum_grad_x[i] * s.invstd[column + i]);
          grad_bias[column + i] = static_cast<T>(sum_grad[i]);
        }

        // dx = scale (dz - shift - (x - mean) slope); evaluation has neither shift nor slope.
        const Centre<T, Strip::kVectors> centre(s.mean + column, count);
        const auto scale = StripParameters::fill(count, [&](int64_t i) {
          return s.invstd[column + i] * value_or(arguments.weight, column + i, 1.0);
        });
        const auto shift = StripParameters::fill(
            count, [&](int64_t i) { return training ? sum_grad[i] / rows : 0.0; });
        const auto slope = StripParameters::fill(count, [&](int64_t i) {
          const double inverse_variance = s.invstd[column + i] * s.invstd[column + i];
          return training ? sum_grad_x[i] * inverse_variance / (rows - arguments.correction) : 0.0;
        });
        for (int64_t row = 0; row < input.rows; ++row) {
          for (int v = 0; v < Strip::kVectors; ++v) {
            const int64_t at = column + v * kLanes<T>;
            const Vec<T> dz = source.template load<Strip>(row, at, count);
            const Vec<T> x = Strip::load(input, row, at, count);
            const Vec<T> dx = dz - shift.lanes[v] - centre.subtract_from(x, v) * slope.lanes[v];
            Strip::store(grad_input, row, at, scale.lanes[v] * dx, count);
          }
        }
      });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
