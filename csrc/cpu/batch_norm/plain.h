// Batch norm of one channel in double, element by element: the formulas of batch_norm.cpp line by
// line, and the place to start reading. The tests hold the kernels to it; the kernels leave to it
// what is out of their range.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../simd/vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

struct ChannelStatistics {
  double mean;
  double variance;
  double invstd;
};

struct ChannelGradients {
  double bias;    // sum dz
  double weight;  // sum dz xhat
};

template <typename T>
class PlainChannel {
 public:
  // scale: a power of two by which elements are multiplied, where their squares would not fit.
  PlainChannel(const BatchNormArguments<T>& arguments, int64_t channel, double scale = 1)
      : arguments_(arguments),
        channel_(channel),
        scale_(scale),
        n_(static_cast<double>(arguments.shape.per_channel())),
        weight_(arguments.weight == nullptr ? 1.0 : arguments.weight[channel]),
        bias_(arguments.bias == nullptr ? 0.0 : arguments.bias[channel]) {}

  ChannelStatistics statistics() const {
    double sum = 0;
    for (int64_t i = 0; i < arguments_.shape.per_channel(); ++i) {
      sum += x(i);
    }
    const double mean = sum / n_;
    double squares = 0;
    for (int64_t i = 0; i < arguments_.shape.per_channel(); ++i) {
      squares += (x(i) - mean) * (x(i) - mean);
    }
    const double scaled = squares / (n_ - arguments_.correction);
    const double variance = scaled / scale_ / scale_;
    return {mean / scale_, variance,
            std::isinf(variance) ? scale_ / std::sqrt(scaled)
                                 : 1 / std::sqrt(variance + arguments_.eps)};
  }

  double y(int64_t i, const ChannelStatistics& known) const {
    const double z = xhat(i, known) * weight_ + bias_;
    if (arguments_.activation == Activation::tanh) {
      return std::tanh(z);
    }
    return arguments_.activation == Activation::relu && z < 0 ? 0.0 : z;
  }

  ChannelGradients gradients(const ChannelStatistics& known,
                             const BatchNormGradients<T>& given) const {
    ChannelGradients result{0, 0};
    for (int64_t i = 0; i < arguments_.shape.per_channel(); ++i) {
      result.bias += dz(i, given);
      result.weight += dz(i, given) * xhat(i, known);
    }
    return result;
  }

  double dx(int64_t i, const ChannelStatistics& known, const ChannelGradients& sums,
            const BatchNormGradients<T>& given) const {
    double result = dz(i, given);
    if (arguments_.training) {
      result -= sums.bias / n_ + xhat(i, known) * (sums.weight / (n_ - arguments_.correction));
    }
    return result * (weight_ * known.invstd);
  }

 private:
  const BatchNormArguments<T>& arguments_;
  int64_t channel_;
  double scale_;
  double n_;
  double weight_;
  double bias_;

  double at(const ChannelView<const T>& view, int64_t i) const {
    return load_one(view.at(arguments_.shape, channel_, i));
  }
  double x(int64_t i) const { return at(arguments_.input, i) * scale_; }
  double xhat(int64_t i, const ChannelStatistics& known) const {
    return (x(i) - known.mean * scale_) * (known.invstd / scale_);
  }
  double dz(int64_t i, const BatchNormGradients<T>& given) const {
    const double dy = at(given.grad_output, i);
    if (arguments_.activation == Activation::none) {
      return dy;
    }
    const double y = at(given.output, i);
    if (arguments_.activation == Activation::tanh) {
      return dy * ((1 - y) * (1 + y));
    }
    return y <= 0 ? 0.0 : dy;
  }
};

// Whether the values of a channel are so far apart, or so far from 0, that x - mean, its square or
// its product with a gradient may not fit the type that vectors are computed in, by a margin. A
// channel with an infinity or a NaN is one too, and leaves as NaN.
template <typename T>
inline bool is_out_of_range(double mean, double variance) {
  constexpr double kLimit = std::is_same_v<T, double> ? 0x1p+960 : 0x1p+100;
  const bool mean_is_inside = std::abs(mean) < kLimit, variance_is_inside = variance < kLimit;
  return !(mean_is_inside & variance_is_inside);  // no branch: a loop of it is one of vectors
}

template <typename T>
PlainChannel<T> extreme_channel(const BatchNormArguments<T>& arguments, int64_t channel) {
  return {arguments, channel, std::is_same_v<T, double> ? 0x1p-600 : 1.0};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
