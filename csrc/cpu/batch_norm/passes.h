// The forward and the backward pass: which sums of a channel each takes, what it makes of them, and
// what it writes. The formulas stand in batch_norm.cpp, and there what is called when; where the
// elements are in memory, in columns.h and planes.h; how they are computed, in rows.h.
//
// `Place` is one of a layout: place.in(view) are the rows of any tensor of the call.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "../../arguments.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "channels.h"
#include "plain.h"
#include "rows.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

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

// Whether a result of that shape is stored past the caches.
template <typename T>
bool is_streamed(const ChannelShape& shape) {
  return shape.elements() * static_cast<int64_t>(sizeof(T)) >= kStreamedBytes;
}

template <typename T>
class ForwardPass {
 public:
  using Element = T;
  using C = Compute<T>;

  ForwardPass(const BatchNormArguments<T>& arguments, double* statistics, ChannelView<T> output,
              const Channels<C>& channels)
      : arguments_(arguments),
        sums_(channels.sums),
        parameters_(channels.parameters),
        statistics_(statistics, arguments.shape.channels),
        output_(output),
        count_(static_cast<double>(arguments.shape.per_channel())) {}

  const ChannelShape& shape() const { return arguments_.shape; }
  const ChannelView<const T>& input() const { return arguments_.input; }
  const ChannelView<T>& result() const { return output_; }
  const ChannelSums<C>& sums() const { return sums_; }
  const Parameters<C*>& parameters() const { return parameters_; }
  const auto& statistics() const { return statistics_; }
  bool needs_sums() const { return arguments_.training; }
  bool needs_result() const { return output_.data != nullptr; }

  // The mean is not known yet: the layout takes the centres from a few elements.
  static constexpr bool kKnowsCentre = false;

  // Calls body(the terms to sum there).
  template <typename Place, typename Body>
  void sum(const Place& place, const Body& body) const {
    body(Moments<Place::kReadsAhead, T>{place.in(arguments_.input)});
  }

  // Sums to statistics: the sum of the squares about the mean is that about the centre, less
  // n (mean - centre)^2. Where that difference costs digits, as the centre is more than 2 standard
  // deviations from the mean, the centre is moved to the mean: whether any was, so that the sums
  // are to be taken once more.
  bool finish_sums(Range channels) const {
    const double share = 1 / count_;
    const double free_share = 1 / (count_ - arguments_.correction);
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      const double distance = sums_.first[channel] * share;
      const double squares = sums_.second[channel] - distance * sums_.first[channel];
      const double variance = std::max(squares, 0.0) * free_share;
      statistics_.mean[channel] = static_cast<double>(sums_.centre[channel]) + distance;
      statistics_.variance[channel] = variance;
    }
    statistics_.set_invstd(channels, arguments_.eps);
    int64_t usual = 0;
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      const double moved = sums_.first[channel] * share * sums_.first[channel];
      usual += moved <= kMostMoved * sums_.second[channel] ? 1 : 0;
    }
    const bool any_unusual =
        usual < channels.end - channels.begin || statistics_.any_extreme(channels);
    return any_unusual && finish_unusual(channels);
  }

  void finish_without_sums(Range channels) const {
    statistics_.set_invstd(channels, arguments_.eps);
  }

  // The mean in two parts, of which the low one is part of the shift.
  void set_parameters(Range channels) const {
    const C* const weight = arguments_.weight;
    const C* const bias = arguments_.bias;
    const double* const mean = statistics_.mean;
    const double* const invstd = statistics_.invstd;
    C* __restrict const centre = parameters_.centre;
    C* __restrict const scale = parameters_.scale;
    C* __restrict const shift = parameters_.shift;
    for (int64_t i = channels.begin; i < channels.end; ++i) {
      const double exact_scale = invstd[i] * (weight == nullptr ? 1.0 : double{weight[i]});
      centre[i] = static_cast<C>(mean[i]);
      scale[i] = static_cast<C>(exact_scale);
      shift[i] = static_cast<C>((bias == nullptr ? 0.0 : double{bias[i]}) -
                                (mean[i] - static_cast<double>(centre[i])) * exact_scale);
    }
    std::fill(parameters_.slope + channels.begin, parameters_.slope + channels.end, C(0));
  }

  // Calls body(rows of the result, the groups to write there).
  template <typename Place, typename Body>
  void write(const Place& place, const Body& body) const {
    with_activation(arguments_.activation, [&](auto activation) {
      body(place.in(output_),
           Normalized<decltype(activation)::value, T>{place.in(arguments_.input)});
    });
  }

  // Writes elements of an extreme channel.
  void write_extreme(int64_t channel, Range elements) const {
    const PlainChannel<T> plain = extreme_channel(arguments_, channel);
    for (int64_t i = elements.begin; i < elements.end; ++i) {
      store_one(output_.at(shape(), channel, i),
                static_cast<C>(plain.y(i, statistics_.of(channel))));
    }
  }

 private:
  // Of the squares about the centre, where it is 2 standard deviations from the mean.
  static constexpr double kMostMoved = 4.0 / 5.0;

  const BatchNormArguments<T>& arguments_;
  ChannelSums<C> sums_;
  Parameters<C*> parameters_;
  Statistics<T, double> statistics_;
  ChannelView<T> output_;
  double count_;

  bool finish_unusual(Range channels) const {
    bool any_moved = false;
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      const double first = sums_.first[channel], second = sums_.second[channel];
      if (!std::isfinite(second) || statistics_.is_extreme(channel)) {
        const auto known = extreme_channel(arguments_, channel).statistics();
        statistics_.mean[channel] = known.mean;
        statistics_.variance[channel] = known.variance;
        statistics_.invstd[channel] = known.invstd;
      } else if (first / count_ * first > kMostMoved * second) {
        sums_.centre[channel] = centre_near<T>(static_cast<C>(statistics_.mean[channel]));
        any_moved = true;
      }
    }
    return any_moved;
  }
};

template <typename T>
class BackwardPass {
 public:
  using Element = T;
  using C = Compute<T>;

  BackwardPass(const BatchNormArguments<T>& arguments, const double* statistics,
               const BatchNormGradients<T>& gradients, const Channels<C>& channels)
      : arguments_(arguments),
        sums_(channels.sums),
        parameters_(channels.parameters),
        statistics_(statistics, arguments.shape.channels),
        gradients_(gradients),
        count_(static_cast<double>(arguments.shape.per_channel())) {}

  const ChannelShape& shape() const { return arguments_.shape; }
  const ChannelView<const T>& input() const { return arguments_.input; }
  const ChannelView<T>& result() const { return gradients_.grad_input; }
  const ChannelSums<C>& sums() const { return sums_; }
  const Parameters<C*>& parameters() const { return parameters_; }
  const auto& statistics() const { return statistics_; }
  bool needs_sums() const {
    return gradients_.sums != nullptr || gradients_.grad_weight != nullptr ||
           (arguments_.training && needs_result() && gradients_.shares == nullptr);
  }
  bool needs_result() const { return gradients_.grad_input.data != nullptr; }

  static constexpr bool kKnowsCentre = true;
  void set_centres(Range channels) const {
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      sums_.centre[channel] = centre_near<T>(static_cast<C>(statistics_.mean[channel]));
    }
  }

  // Calls body(the terms to sum there).
  template <typename Place, typename Body>
  void sum(const Place& place, const Body& body) const {
    with_activation(arguments_.activation, [&](auto activation) {
      constexpr Activation kActivation = decltype(activation)::value;
      body(GradientMoments<Place::kReadsAhead, kActivation, T>{gradient_rows<kActivation>(place),
                                                               place.in(arguments_.input)});
    });
  }

  // From sum dz (x - centre) to sum dz xhat, which takes its place.
  bool finish_sums(Range channels) const {
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      const double rest = statistics_.mean[channel] - static_cast<double>(sums_.centre[channel]);
      sums_.second[channel] =
          (sums_.second[channel] - rest * sums_.first[channel]) * statistics_.invstd[channel];
    }
    int64_t finite = 0;
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      finite += std::abs(sums_.second[channel]) <= std::numeric_limits<double>::max() ? 1 : 0;
    }
    if (finite < channels.end - channels.begin || statistics_.any_extreme(channels)) {
      finish_unusual(channels);
    }
    if (gradients_.grad_weight != nullptr) {
      for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
        gradients_.grad_weight[channel] = static_cast<C>(sums_.second[channel]);
        gradients_.grad_bias[channel] = static_cast<C>(sums_.first[channel]);
      }
    }
    if (gradients_.sums != nullptr) {
      double* const first = gradients_.sums;
      double* const second = first + shape().channels;
      std::copy(sums_.first + channels.begin, sums_.first + channels.end, first + channels.begin);
      std::copy(sums_.second + channels.begin, sums_.second + channels.end,
                second + channels.begin);
    }
    return false;
  }

  // Shares of a larger batch: the sums that these elements would have them of.
  void finish_without_sums(Range channels) const {
    if (gradients_.shares == nullptr) {
      std::fill(sums_.first + channels.begin, sums_.first + channels.end, 0.0);
      std::fill(sums_.second + channels.begin, sums_.second + channels.end, 0.0);
      return;
    }
    const double* const first = gradients_.shares;
    const double* const second = first + shape().channels;
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      sums_.first[channel] = first[channel] * count_;
      sums_.second[channel] = second[channel] * (count_ - arguments_.correction);
    }
  }

  // What the centre lacks of the mean is part of the shift.
  void set_parameters(Range channels) const {
    const double share = 1 / count_;
    const double free_share = 1 / (count_ - arguments_.correction);
    const C* const weight = arguments_.weight;
    const double* const mean = statistics_.mean;
    const double* const invstd = statistics_.invstd;
    C* __restrict const centre = parameters_.centre;
    C* __restrict const scale = parameters_.scale;
    C* __restrict const shift = parameters_.shift;
    C* __restrict const slope = parameters_.slope;
    for (int64_t i = channels.begin; i < channels.end; ++i) {
      const double exact_slope = sums_.second[i] * invstd[i] * free_share;
      centre[i] = static_cast<C>(mean[i]);
      scale[i] = static_cast<C>(invstd[i] * (weight == nullptr ? 1.0 : double{weight[i]}));
      shift[i] = static_cast<C>(sums_.first[i] * share -
                                (mean[i] - static_cast<double>(centre[i])) * exact_slope);
      slope[i] = static_cast<C>(exact_slope);
    }
  }

  // Calls body(rows of the result, the groups to write there).
  template <typename Place, typename Body>
  void write(const Place& place, const Body& body) const {
    const Rows<T> result = place.in(gradients_.grad_input);
    const Rows<const T> x = place.in(arguments_.input);
    with_activation(arguments_.activation, [&](auto activation) {
      constexpr Activation kActivation = decltype(activation)::value;
      const GradientRows<T> gradient = gradient_rows<kActivation>(place);
      if (arguments_.training) {
        body(result, InputGradient<kActivation, true, T>{gradient, x});
      } else {
        body(result, InputGradient<kActivation, false, T>{gradient, x});
      }
    });
  }

  // Writes elements of an extreme channel.
  void write_extreme(int64_t channel, Range elements) const {
    const PlainChannel<T> plain = extreme_channel(arguments_, channel);
    const ChannelGradients known{sums_.first[channel], sums_.second[channel]};
    for (int64_t i = elements.begin; i < elements.end; ++i) {
      store_one(gradients_.grad_input.at(shape(), channel, i),
                static_cast<C>(plain.dx(i, statistics_.of(channel), known, gradients_)));
    }
  }

 private:
  const BatchNormArguments<T>& arguments_;
  ChannelSums<C> sums_;
  Parameters<C*> parameters_;
  Statistics<T, const double> statistics_;
  const BatchNormGradients<T>& gradients_;
  double count_;

  void finish_unusual(Range channels) const {
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      const ChannelStatistics known = statistics_.of(channel);
      const bool overflowed = !std::isfinite(sums_.second[channel]) && std::isfinite(known.invstd);
      if (overflowed || statistics_.is_extreme(channel)) {
        const auto exact = extreme_channel(arguments_, channel).gradients(known, gradients_);
        sums_.first[channel] = exact.bias;
        sums_.second[channel] = exact.weight;
      }
    }
  }

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
