// Channels whose values are so far apart, or so far from 0, that x - mean or its square may not fit
// the type that vectors are computed in: element by element in double. Channels with an infinity or
// a NaN come here too, and leave as NaN.
//
// In double itself the squares of such values would not fit: they are scaled by a power of two.
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../simd/elementary.h"
#include "../simd/vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Far below where a difference, its square or its product with a gradient overflows.
template <typename T>
inline bool is_extreme(double mean, double variance) {
  constexpr bool is_double = std::is_same_v<Compute<T>, double>;
  constexpr double limit = is_double ? 0x1p+960 : 0x1p+100;
  return !(std::abs(mean) < limit && variance < limit);
}

template <typename T>
class ExtremeChannel {
 public:
  ExtremeChannel(const BatchNormArguments<T>& arguments, int64_t channel)
      : arguments_(arguments),
        channel_(channel),
        count_(static_cast<double>(arguments.shape.per_channel())),
        weight_(arguments.weight == nullptr ? 1.0 : arguments.weight[channel]),
        bias_(arguments.bias == nullptr ? 0.0 : arguments.bias[channel]) {}

  void statistics(double& mean, double& variance, double& invstd) const {
    const int64_t count = arguments_.shape.per_channel();
    double sum = 0;
    for (int64_t i = 0; i < count; ++i) {
      sum += input(i);
    }
    const double scaled_mean = sum / count_;
    double squares = 0;
    for (int64_t i = 0; i < count; ++i) {
      const double difference = input(i) - scaled_mean;
      squares += difference * difference;
    }
    const double scaled_variance = squares / (count_ - arguments_.correction);
    mean = scaled_mean / kScale;
    variance = scaled_variance / kScale / kScale;
    invstd = std::isinf(variance) ? kScale / std::sqrt(scaled_variance)
                                  : 1 / std::sqrt(variance + arguments_.eps);
  }

  // Elements [begin, end) of the output.
  void normalize(int64_t begin, int64_t end, double mean, double invstd,
                 const ChannelView<T>& output) const {
    for (int64_t i = begin; i < end; ++i) {
      double z = normalized(i, mean, invstd) * weight_ + bias_;
      if (arguments_.activation == Activation::tanh) {
        z = tanh<double>(broadcast(z))[0];
      } else if (arguments_.activation == Activation::relu) {
        z = z < 0 ? 0.0 : z;
      }
      store_one(at(output, i), static_cast<Compute<T>>(z));
    }
  }

  // sum dz and sum dz xhat.
  void gradient_sums(const BatchNormGradients<T>& gradients, double mean, double invstd,
                     double& sum, double& products) const {
    sum = products = 0;
    for (int64_t i = 0; i < arguments_.shape.per_channel(); ++i) {
      const double dz = before_activation(gradients, i);
      sum += dz;
      products += dz * normalized(i, mean, invstd);
    }
  }

  // Elements [begin, end) of the gradient of the input.
  void input_gradient(int64_t begin, int64_t end, double mean, double invstd, double sum,
                      double products, const BatchNormGradients<T>& gradients) const {
    const double shift = arguments_.training ? sum / count_ : 0.0;
    const double slope = arguments_.training ? products / (count_ - arguments_.correction) : 0.0;
    for (int64_t i = begin; i < end; ++i) {
      double dx = before_activation(gradients, i);
      if (arguments_.training) {
        dx -= shift + normalized(i, mean, invstd) * slope;
      }
      store_one(at(gradients.grad_input, i), static_cast<Compute<T>>(dx * (weight_ * invstd)));
    }
  }

 private:
  static constexpr double kScale = std::is_same_v<T, double> ? 0x1p-600 : 1.0;

  const BatchNormArguments<T>& arguments_;
  int64_t channel_;
  double count_;
  double weight_;
  double bias_;

  template <typename Element>
  Element* at(const ChannelView<Element>& view, int64_t i) const {
    return view.at(arguments_.shape, channel_, i);
  }
  double input(int64_t i) const {
    return static_cast<double>(load_one(at(arguments_.input, i))) * kScale;
  }
  double normalized(int64_t i, double mean, double invstd) const {
    return (input(i) - mean * kScale) * (invstd / kScale);
  }
  double before_activation(const BatchNormGradients<T>& gradients, int64_t i) const {
    const double grad = load_one(at(gradients.grad_output, i));
    if (arguments_.activation == Activation::none) {
      return grad;
    }
    const double y = load_one(at(gradients.output, i));
    if (arguments_.activation == Activation::tanh) {
      return grad * ((1 - y) * (1 + y));
    }
    return y <= 0 ? 0.0 : grad;
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
