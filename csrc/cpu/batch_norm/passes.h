// The two passes over the input, forward and backward: what either sums over a channel, makes of
// the sums, and writes. The formulas stand in batch_norm.h; what walks the memory, in
// columns.h and planes.h.
//
// A pass is asked, in this order, for
//   with_sums      which activation the sums depend on: `add` is built for each, all else once
//   add            the sums of a group of some rows, about a centre for each of its elements
//   finish         of a channel: sums to statistics or gradients. false: not exact enough, take the
//                  sums again about the centre it leaves
//   parameters     of a channel, for
//   apply          which writes some rows
//   apply_extreme  and this, which writes elements of a channel once more where need be
// `locate` gives the rows in a view.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../parallel.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "extreme.h"
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
  bool sums_needed() const { return arguments_.training; }
  bool result_needed() const { return true; }
  const T* result() const { return output_.data; }
  // Whether the centres are the caller's to choose, close to the mean.
  static constexpr bool kChooseCentre = true;
  C centre(int64_t) const { return 0; }

  // None: these are sums over the input.
  template <typename Body>
  void with_sums(const Body& body) const {
    body(std::integral_constant<Activation, Activation::none>{});
  }

  template <bool partial, Activation, typename Locate>
  MAKEMORE_EXT_INLINE void add(const Locate& locate, int64_t rows, int64_t column, int64_t count,
                               const Group<T>& centre, int64_t index,
                               const GroupSums<T>& sums) const {
    add_moments<partial, T>(locate(arguments_.input), rows, column, count, centre, index, sums);
  }

  // The sum of the squares about the mean is that about the centre, less n (mean - centre)^2, which
  // costs digits where it is most of it.
  bool finish(int64_t channel, double sum, double squares, C& centre) const {
    const double distance = sum / count_;
    const double beside = distance * sum;
    const double mean = static_cast<double>(centre) + distance;
    const double variance = std::max(squares - beside, 0.0) / (count_ - arguments_.correction);
    statistics_.mean[channel] = mean;
    statistics_.variance[channel] = variance;
    statistics_.invstd[channel] = 1 / std::sqrt(variance + arguments_.eps);
    if (!std::isfinite(squares) || is_extreme<T>(mean, variance)) {
      ExtremeChannel<T>(arguments_, channel)
          .statistics(statistics_.mean[channel], statistics_.variance[channel],
                      statistics_.invstd[channel]);
    } else if (beside > kMostBeside * squares) {
      centre = centre_near<T>(static_cast<C>(mean));
      return false;
    }
    return true;
  }

  // Where there are no sums.
  void finish(int64_t channel) const {
    statistics_.invstd[channel] = 1 / std::sqrt(statistics_.variance[channel] + arguments_.eps);
  }

  // centre, scale, bias: the mean in two parts, of which the low one is part of the bias.
  void parameters(int64_t channel, C* result) const {
    const double mean = statistics_.mean[channel];
    const double scale = statistics_.invstd[channel] *
                         (arguments_.weight == nullptr ? 1.0 : arguments_.weight[channel]);
    const double bias = arguments_.bias == nullptr ? 0.0 : arguments_.bias[channel];
    result[0] = static_cast<C>(mean);
    result[1] = static_cast<C>(scale);
    result[2] = static_cast<C>(bias - (mean - static_cast<double>(result[0])) * scale);
    result[3] = 0;
  }

  template <typename Locate, typename Parameters>
  void apply(const Locate& locate, int64_t rows, int64_t count,
             const Parameters& parameters) const {
    with_stores(shape(), locate(output_), [&](auto streamed) {
      with_activation(arguments_.activation, [&](auto activation) {
        normalize<decltype(activation)::value, decltype(streamed)::value, T>(
            locate(arguments_.input), locate(output_), rows, count, parameters);
      });
    });
  }

  void apply_extreme(int64_t channel, int64_t begin, int64_t end) const {
    const double mean = statistics_.mean[channel];
    if (is_extreme<T>(mean, statistics_.variance[channel])) {
      ExtremeChannel<T>(arguments_, channel)
          .normalize(begin, end, mean, statistics_.invstd[channel], output_);
    }
  }

 private:
  // Above, the centre is more than 4 standard deviations from the mean.
  static constexpr double kMostBeside = 16.0 / 17.0;

  const BatchNormArguments<T>& arguments_;
  Statistics<double> statistics_;
  ChannelView<T> output_;
  double count_;
};

template <typename T>
class BackwardPass {
 public:
  using Element = T;
  using C = Compute<T>;

  // sums: [2, channels], what this class keeps between finish and apply.
  BackwardPass(const BatchNormArguments<T>& arguments, const double* statistics,
               const BatchNormGradients<T>& gradients, double* sums)
      : arguments_(arguments),
        statistics_(statistics, arguments.shape.channels),
        gradients_(gradients),
        sum_(sums),
        products_(sums + arguments.shape.channels),
        count_(static_cast<double>(arguments.shape.per_channel())) {}

  const ChannelShape& shape() const { return arguments_.shape; }
  const ChannelView<const T>& input() const { return arguments_.input; }
  bool sums_needed() const {
    return gradients_.grad_weight != nullptr || (arguments_.training && result_needed());
  }
  bool result_needed() const { return gradients_.grad_input.data != nullptr; }
  const T* result() const { return gradients_.grad_input.data; }
  static constexpr bool kChooseCentre = false;
  C centre(int64_t channel) const {
    return centre_near<T>(static_cast<C>(statistics_.mean[channel]));
  }

  template <typename Body>
  void with_sums(const Body& body) const {
    with_activation(arguments_.activation, body);
  }

  template <bool partial, Activation activation, typename Locate>
  MAKEMORE_EXT_INLINE void add(const Locate& locate, int64_t rows, int64_t column, int64_t count,
                               const Group<T>& centre, int64_t index,
                               const GroupSums<T>& sums) const {
    add_gradient_moments<partial, activation, T>(gradient_rows<activation>(locate),
                                                 locate(arguments_.input), rows, column, count,
                                                 centre, index, sums);
  }

  // From sum dz (x - centre) to sum dz xhat.
  bool finish(int64_t channel, double sum, double products, C& centre) const {
    const double mean = statistics_.mean[channel];
    const double invstd = statistics_.invstd[channel];
    products = (products - (mean - static_cast<double>(centre)) * sum) * invstd;
    const bool overflowed = !std::isfinite(products) && std::isfinite(invstd);
    if (overflowed || is_extreme<T>(mean, statistics_.variance[channel])) {
      ExtremeChannel<T>(arguments_, channel).gradient_sums(gradients_, mean, invstd, sum, products);
    }
    sum_[channel] = sum;
    products_[channel] = products;
    if (gradients_.grad_weight != nullptr) {
      gradients_.grad_weight[channel] = static_cast<C>(products);
      gradients_.grad_bias[channel] = static_cast<C>(sum);
    }
    return true;
  }

  void finish(int64_t channel) const { sum_[channel] = products_[channel] = 0; }

  // centre, scale, shift, slope: see input_gradient. What the centre lacks is part of the shift.
  void parameters(int64_t channel, C* result) const {
    const double mean = statistics_.mean[channel];
    const double invstd = statistics_.invstd[channel];
    result[0] = static_cast<C>(mean);
    result[1] =
        static_cast<C>(invstd * (arguments_.weight == nullptr ? 1.0 : arguments_.weight[channel]));
    const double slope = products_[channel] * invstd / (count_ - arguments_.correction);
    result[2] =
        static_cast<C>(sum_[channel] / count_ - (mean - static_cast<double>(result[0])) * slope);
    result[3] = static_cast<C>(slope);
  }

  template <typename Locate, typename Parameters>
  void apply(const Locate& locate, int64_t rows, int64_t count,
             const Parameters& parameters) const {
    const auto write = [&](auto feedback) {
      with_stores(shape(), locate(gradients_.grad_input), [&](auto streamed) {
        with_activation(arguments_.activation, [&](auto activation) {
          constexpr Activation kActivation = decltype(activation)::value;
          input_gradient<kActivation, decltype(feedback)::value, decltype(streamed)::value, T>(
              gradient_rows<kActivation>(locate), locate(arguments_.input),
              locate(gradients_.grad_input), rows, count, parameters);
        });
      });
    };
    if (arguments_.training) {
      write(std::true_type{});
    } else {
      write(std::false_type{});
    }
  }

  void apply_extreme(int64_t channel, int64_t begin, int64_t end) const {
    const double mean = statistics_.mean[channel];
    if (is_extreme<T>(mean, statistics_.variance[channel])) {
      ExtremeChannel<T>(arguments_, channel)
          .input_gradient(begin, end, mean, statistics_.invstd[channel], sum_[channel],
                          products_[channel], gradients_);
    }
  }

 private:
  const BatchNormArguments<T>& arguments_;
  Statistics<const double> statistics_;
  const BatchNormGradients<T>& gradients_;
  double* sum_;
  double* products_;
  double count_;

  template <Activation activation, typename Locate>
  GradientRows<T> gradient_rows(const Locate& locate) const {
    if constexpr (activation == Activation::none) {
      return {locate(gradients_.grad_output), {}};
    } else {
      return {locate(gradients_.grad_output), locate(gradients_.output)};
    }
  }
};

// A layout cuts its elements in blocks of channels and those in pieces. With one piece the whole
// pass over a block is one task, so that the block is read from memory once; with more, the sums of
// all pieces come first.
template <typename Layout>
void run_pass(const Layout& layout, int64_t elements) {
  const bool sums = layout.sums_needed();
  const bool result = layout.result_needed();
  if (layout.pieces() == 1) {
    for_each_piece(layout.blocks(), 1, elements, [&](int64_t block, int64_t, int64_t) {
      if (sums) {
        layout.begin(block);
        layout.add(block, 0);
        if (!layout.finish(block)) {
          layout.add(block, 0);
          layout.finish(block);
        }
      }
      if (result) {
        layout.prepare(block);
        layout.apply(block, 0);
        finish_stores();
      }
    });
    return;
  }
  const auto for_each_block = [&](const auto& body) {
    for (int64_t block = 0; block < layout.blocks(); ++block) {
      body(block);
    }
  };
  const auto for_each_cell = [&](const auto& body) {
    for_each_piece(layout.blocks() * layout.pieces(), 1, elements,
                   [&](int64_t cell, int64_t, int64_t) {
                     body(cell / layout.pieces(), cell % layout.pieces());
                   });
  };
  if (sums) {
    for_each_block([&](int64_t block) { layout.begin(block); });
    bool exact = false;
    for (int attempt = 0; attempt < 2 && !exact; ++attempt) {
      for_each_cell([&](int64_t block, int64_t piece) { layout.add(block, piece); });
      exact = true;
      for_each_block([&](int64_t block) { exact = layout.finish(block) && exact; });
    }
  }
  if (result) {
    for_each_block([&](int64_t block) { layout.prepare(block); });
    for_each_cell([&](int64_t block, int64_t piece) {
      layout.apply(block, piece);
      finish_stores();
    });
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
