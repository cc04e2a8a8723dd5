// The forward and the backward pass: which sums of a channel each takes, what it makes of them, and
// what it writes. The formulas stand in batch_norm.cpp, and there what is called when; where the
// elements are in memory, in columns.h and planes.h; how they are computed, in rows.h.
//
// `Place` is one of a layout: place.in(view) are the rows of any tensor of the call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "plain.h"
#include "rows.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// statistics [3, channels], one array for each row.
template <typename Value>
struct Statistics {
  Value* mean;
  Value* variance;
  Value* invstd;

  Statistics(Value* statistics, int64_t channels)
      : mean(statistics), variance(mean + channels), invstd(variance + channels) {}

  ChannelStatistics of(int64_t channel) const {
    return {mean[channel], variance[channel], invstd[channel]};
  }
};

// Two sums over a channel, and the value they are about. Forward: x - centre and its square;
// backward: dz and dz (x - centre).
template <typename C>
struct ChannelSums {
  double first;
  double second;
  C centre;
};

// Calls body(activation) with it as a type.
template <typename Body>
void with_activation(Activation activation, const Body& body) {
  switch (activation) {
    case Activation::tanh:
      body(std::integral_constant<Activation, Activation::tanh>{});
      break;
    case Activation::relu:
      body(std::integral_constant<Activation, Activation::relu>{});
      break;
    default:
      body(std::integral_constant<Activation, Activation::none>{});
  }
}

// Calls body(streamed) with whether to store these rows of a result of that shape past the caches.
template <typename T, typename Body>
void with_stores(const ChannelShape& shape, const Rows<T>& result, const Body& body) {
  const bool is_large = shape.elements() * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes;
  if (is_large && can_stream(result.data, result.stride)) {
    body(std::true_type{});
  } else {
    body(std::false_type{});
  }
}

template <typename T>
class ForwardPass {
 public:
  using Element = T;
  using C = Compute<T>;

  ForwardPass(const BatchNormArguments<T>& arguments, double* statistics, ChannelView<T> output)
      : arguments_(arguments),
        statistics_(statistics, arguments.shape.channels),
        output_(output),
        count_(static_cast<double>(arguments.shape.per_channel())) {}

  const ChannelShape& shape() const { return arguments_.shape; }
  const ChannelView<const T>& input() const { return arguments_.input; }
  const T* result() const { return output_.data; }
  bool needs_sums() const { return arguments_.training; }
  bool needs_result() const { return true; }

  // The mean is not known yet: the layout takes the centre from a few elements.
  static constexpr bool kKnowsCentre = false;

  // Calls body(activation) with what the sums depend on: nothing.
  template <typename Body>
  void with_sums(const Body& body) const {
    body(std::integral_constant<Activation, Activation::none>{});
  }

  // Adds to the sums of the group of each row at `column`, whose values in the other arrays are at
  // `index`.
  template <bool partial, Activation, typename Place>
  MAKEMORE_EXT_INLINE void add(const Place& place, int64_t rows, int64_t column, int64_t count,
                               const Group<T>& centre, int64_t index,
                               const GroupSums<T>& sums) const {
    add_moments<partial, T>(place.in(arguments_.input), rows, column, count, centre, index, sums);
  }

  // The sum of the squares about the mean is that about the centre, less n (mean - centre)^2.
  void finish(int64_t channel, const ChannelSums<C>& sums) const {
    const double distance = sums.first / count_;
    const double mean = static_cast<double>(sums.centre) + distance;
    const double squares = std::max(sums.second - distance * sums.first, 0.0);
    const double variance = squares / (count_ - arguments_.correction);
    set({mean, variance, 1 / std::sqrt(variance + arguments_.eps)}, channel);
    if (!std::isfinite(sums.second) || is_extreme(channel)) {
      set(extreme_channel(arguments_, channel).statistics(), channel);
    }
  }

  // Whether that difference has cost digits: more than 16/17 of the squares were subtracted, as the
  // centre is more than 4 standard deviations from the mean.
  bool is_far(int64_t channel, const ChannelSums<C>& sums) const {
    return std::isfinite(sums.second) && !is_extreme(channel) &&
           sums.first / count_ * sums.first > 16.0 / 17.0 * sums.second;
  }

  C centre(int64_t channel) const {
    return centre_near<T>(static_cast<C>(statistics_.mean[channel]));
  }

  // Where there are no sums, for channels [begin, end): a loop that becomes one of vectors.
  void finish(int64_t begin, int64_t end) const {
    const double eps = arguments_.eps;
    const double* const variance = statistics_.variance;
    double* const invstd = statistics_.invstd;
    for (int64_t channel = begin; channel < end; ++channel) {
      invstd[channel] = 1 / std::sqrt(variance[channel] + eps);
    }
  }

  // The mean in two parts, of which the low one is part of the shift.
  Parameters<C> parameters(int64_t channel) const {
    const double mean = statistics_.mean[channel];
    const double scale = statistics_.invstd[channel] *
                         (arguments_.weight == nullptr ? 1.0 : arguments_.weight[channel]);
    const double bias = arguments_.bias == nullptr ? 0.0 : arguments_.bias[channel];
    const C centre = static_cast<C>(mean);
    return {centre, static_cast<C>(scale),
            static_cast<C>(bias - (mean - static_cast<double>(centre)) * scale), C(0)};
  }

  template <typename Place, typename RowParameters>
  void write(const Place& place, int64_t rows, int64_t count,
             const RowParameters& parameters) const {
    with_stores(shape(), place.in(output_), [&](auto streamed) {
      with_activation(arguments_.activation, [&](auto activation) {
        normalize<decltype(activation)::value, decltype(streamed)::value, T>(
            place.in(arguments_.input), place.in(output_), rows, count, parameters);
      });
    });
  }

  bool is_extreme(int64_t channel) const { return is_out_of_range<T>(statistics_.of(channel)); }

  // Writes elements [begin, end) of an extreme channel.
  void write_extreme(int64_t channel, int64_t begin, int64_t end) const {
    const PlainChannel<T> plain = extreme_channel(arguments_, channel);
    for (int64_t i = begin; i < end; ++i) {
      store_one(output_.at(shape(), channel, i),
                static_cast<C>(plain.y(i, statistics_.of(channel))));
    }
  }

 private:
  const BatchNormArguments<T>& arguments_;
  Statistics<double> statistics_;
  ChannelView<T> output_;
  double count_;

  void set(const ChannelStatistics& known, int64_t channel) const {
    statistics_.mean[channel] = known.mean;
    statistics_.variance[channel] = known.variance;
    statistics_.invstd[channel] = known.invstd;
  }
};

template <typename T>
class BackwardPass {
 public:
  using Element = T;
  using C = Compute<T>;

  // sums: [2, channels], what this class keeps from the sums to what is written.
  BackwardPass(const BatchNormArguments<T>& arguments, const double* statistics,
               const BatchNormGradients<T>& gradients, double* sums)
      : arguments_(arguments),
        statistics_(statistics, arguments.shape.channels),
        gradients_(gradients),
        sum_dz_(sums),
        sum_dz_xhat_(sums + arguments.shape.channels),
        count_(static_cast<double>(arguments.shape.per_channel())) {}

  const ChannelShape& shape() const { return arguments_.shape; }
  const ChannelView<const T>& input() const { return arguments_.input; }
  const T* result() const { return gradients_.grad_input.data; }
  bool needs_sums() const {
    return gradients_.grad_weight != nullptr || (arguments_.training && needs_result());
  }
  bool needs_result() const { return gradients_.grad_input.data != nullptr; }

  static constexpr bool kKnowsCentre = true;
  C centre(int64_t channel) const {
    return centre_near<T>(static_cast<C>(statistics_.mean[channel]));
  }
  bool is_far(int64_t, const ChannelSums<C>&) const { return false; }

  // Calls body(activation) with what the sums depend on.
  template <typename Body>
  void with_sums(const Body& body) const {
    with_activation(arguments_.activation, body);
  }

  template <bool partial, Activation activation, typename Place>
  MAKEMORE_EXT_INLINE void add(const Place& place, int64_t rows, int64_t column, int64_t count,
                               const Group<T>& centre, int64_t index,
                               const GroupSums<T>& sums) const {
    add_gradient_moments<partial, activation, T>(gradient_rows<activation>(place),
                                                 place.in(arguments_.input), rows, column, count,
                                                 centre, index, sums);
  }

  // From sum dz (x - centre) to sum dz xhat.
  void finish(int64_t channel, const ChannelSums<C>& sums) const {
    const auto [mean, variance, invstd] = statistics_.of(channel);
    const double rest = mean - static_cast<double>(sums.centre);
    ChannelGradients result{sums.first, (sums.second - rest * sums.first) * invstd};
    const bool overflowed = !std::isfinite(result.weight) && std::isfinite(invstd);
    if (overflowed || is_extreme(channel)) {
      result = extreme_channel(arguments_, channel).gradients(statistics_.of(channel), gradients_);
    }
    sum_dz_[channel] = result.bias;
    sum_dz_xhat_[channel] = result.weight;
    if (gradients_.grad_weight != nullptr) {
      gradients_.grad_weight[channel] = static_cast<C>(result.weight);
      gradients_.grad_bias[channel] = static_cast<C>(result.bias);
    }
  }

  void finish(int64_t begin, int64_t end) const {
    std::fill(sum_dz_ + begin, sum_dz_ + end, 0.0);
    std::fill(sum_dz_xhat_ + begin, sum_dz_xhat_ + end, 0.0);
  }

  // What the centre lacks of the mean is part of the shift.
  Parameters<C> parameters(int64_t channel) const {
    const auto [mean, variance, invstd] = statistics_.of(channel);
    const double weight = arguments_.weight == nullptr ? 1.0 : arguments_.weight[channel];
    const double slope = sum_dz_xhat_[channel] * invstd / (count_ - arguments_.correction);
    const C centre = static_cast<C>(mean);
    const double rest = mean - static_cast<double>(centre);
    return {centre, static_cast<C>(invstd * weight),
            static_cast<C>(sum_dz_[channel] / count_ - rest * slope), static_cast<C>(slope)};
  }

  template <typename Place, typename RowParameters>
  void write(const Place& place, int64_t rows, int64_t count,
             const RowParameters& parameters) const {
    const auto with_feedback = [&](auto feedback) {
      with_stores(shape(), place.in(gradients_.grad_input), [&](auto streamed) {
        with_activation(arguments_.activation, [&](auto activation) {
          constexpr Activation kActivation = decltype(activation)::value;
          input_gradient<kActivation, decltype(feedback)::value, decltype(streamed)::value, T>(
              gradient_rows<kActivation>(place), place.in(arguments_.input),
              place.in(gradients_.grad_input), rows, count, parameters);
        });
      });
    };
    if (arguments_.training) {
      with_feedback(std::true_type{});
    } else {
      with_feedback(std::false_type{});
    }
  }

  bool is_extreme(int64_t channel) const { return is_out_of_range<T>(statistics_.of(channel)); }

  // Writes elements [begin, end) of an extreme channel.
  void write_extreme(int64_t channel, int64_t begin, int64_t end) const {
    const PlainChannel<T> plain = extreme_channel(arguments_, channel);
    const ChannelGradients sums{sum_dz_[channel], sum_dz_xhat_[channel]};
    for (int64_t i = begin; i < end; ++i) {
      store_one(gradients_.grad_input.at(shape(), channel, i),
                static_cast<C>(plain.dx(i, statistics_.of(channel), sums, gradients_)));
    }
  }

 private:
  const BatchNormArguments<T>& arguments_;
  Statistics<const double> statistics_;
  const BatchNormGradients<T>& gradients_;
  double* sum_dz_;
  double* sum_dz_xhat_;
  double count_;

  template <Activation activation, typename Place>
  GradientRows<T> gradient_rows(const Place& place) const {
    if constexpr (activation == Activation::none) {
      return {place.in(gradients_.grad_output), {}};
    } else {
      return {place.in(gradients_.grad_output), place.in(gradients_.output)};
    }
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
