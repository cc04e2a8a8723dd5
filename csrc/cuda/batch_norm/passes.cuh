// The two passes over the input, forward and backward: what either sums over a channel, makes of
// the sums, and writes. The twin of csrc/cpu/batch_norm/passes.h; the formulas stand in
// csrc/cpu/batch_norm/batch_norm.cpp. What walks the memory is in columns.cuh and
// planes.cuh.
//
// A pass is asked, in this order, for
//   centre  about which to sum a part of a channel
//   add     terms of some of its elements, added to its sums
//   store   the sums of a part, in double, to the workspace
//   finish  of a channel: the parts' sums to statistics or gradients, and to parameters for
//   write   some elements
#pragma once

#include <cmath>
#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../kernels.h"
#include "../reduce.cuh"
#include "../vec.cuh"
#include "elements.cuh"
#include "parts.cuh"

namespace makemore_ext::cuda {

template <typename T>
struct ForwardPass : BatchNormPass<T, double> {
  using C = Compute<T>;

  RunningStatistics running;
  ChannelView<T> output;

  ForwardPass(const BatchNormArguments<T>& arguments, double* statistics,
              const RunningStatistics& running, const ChannelView<T>& output)
      : BatchNormPass<T, double>(arguments, statistics), running(running), output(output) {}

  bool needs_sums() const { return this->arguments.training; }
  MAKEMORE_EXT_HOST_DEVICE bool needs_result() const { return output.data != nullptr; }

  MAKEMORE_EXT_HOST_DEVICE Split split(const Place& place, int64_t size) const {
    const T* x = place.in(this->arguments.input);
    const T* y = place.in(output);
    return Split::of(size, x, needs_result() ? y : x);
  }
  MAKEMORE_EXT_HOST_DEVICE bool any_stride(bool (*is)(int64_t)) const {
    return is(this->arguments.input.outer_stride) || (needs_result() && is(output.outer_stride));
  }

  // The mean of a few elements of the part, for each of `count` neighbouring channels, without the
  // least and the most of them, which may be outliers. Sums about it lose little: it is close to
  // the part's mean, or what moves it away is in the part's variance too.
  template <int count>
  __device__ PerLane<C, count> centre(const Part& part, const Place& origin,
                                      const PerLane<int64_t, count>&) const {
    constexpr int kSamples = 8;
    Pack<T, count> samples[kSamples];
#pragma unroll
    for (int i = 0; i < kSamples; ++i) {
      const Place place{origin.row + i * part.rows / kSamples, origin.channel,
                        origin.index + i * part.size / kSamples};
      samples[i] = Pack<T, count>::load(place.in(this->arguments.input));
    }
    PerLane<C, count> result;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      C least = samples[0].lane[k];
      C most = least;
      C sum = 0;
#pragma unroll
      for (int i = 0; i < kSamples; ++i) {
        least = fmin(least, samples[i].lane[k]);
        most = fmax(most, samples[i].lane[k]);
        sum += samples[i].lane[k] / kSamples;  // cannot overflow
      }
      constexpr C kShare = C(kSamples) / (kSamples - 2);
      result.values[k] = (sum - least / kSamples - most / kSamples) * kShare;
    }
    return result;
  }

  template <int count, int lanes>
  __device__ void add(const Place& place, const PerLane<C, lanes>& centre,
                      Terms<C, count>& terms) const {
    const auto x = Pack<T, count>::load(place.in(this->arguments.input));
#pragma unroll
    for (int k = 0; k < count; ++k) {
      const C difference = x.lane[k] - centre[k];
      terms.first[k] += difference;
      terms.second[k] += difference * difference;
    }
  }

  // The part's mean, and its squares about that.
  __device__ void store(int64_t channel, int64_t part, C centre, double sum, double squares) const {
    const double distance = sum / static_cast<double>(this->cut.part(part).count());
    const int64_t index = channel * this->cut.parts() + part;
    this->workspace.first[index] = static_cast<double>(centre) + distance;
    const double about_mean = squares - distance * sum;
    this->workspace.second[index] = about_mean < 0 ? 0.0 : about_mean;  // a NaN stays
  }

  __device__ void finish(int64_t channel) const {
    if (this->arguments.training) {
      const double* means = this->workspace.first + channel * this->cut.parts();
      const double* squares = this->workspace.second + channel * this->cut.parts();
      const double sum = this->sum_over(this->cut.parts(), [&](int64_t part) {
        return means[part] * static_cast<double>(this->cut.part(part).count());
      });
      const double mean = sum / this->count();
      const double all_squares = this->sum_over(this->cut.parts(), [&](int64_t part) {
        const double distance = means[part] - mean;
        const auto count = static_cast<double>(this->cut.part(part).count());
        return squares[part] + count * distance * distance;
      });
      if (isfinite(all_squares)) {
        finish_training(channel, mean, all_squares, 1);
      } else {
        sum_again(channel);
      }
    } else if (threadIdx.x == 0) {
      this->mean(channel) = load_element(running.mean, channel);
      this->variance(channel) = load_element(running.variance, channel);
      this->invstd(channel) = 1 / ::sqrt(this->variance(channel) + this->arguments.eps);
    }
    if (threadIdx.x == 0) {
      store_parameters(channel);
    }
  }

  // y = activation((x - centre) scale + shift)
  template <int count, int lanes>
  __device__ void write(const Place& place, const Parameters<C, lanes>& parameters) const {
    auto z = Pack<T, count>::load(place.in(this->arguments.input));
#pragma unroll
    for (int k = 0; k < count; ++k) {
      z.lane[k] = (z.lane[k] * kDown - parameters[kCentre][k]) * parameters[kScale][k] +
                  parameters[kShift][k];
    }
    activate(z, this->arguments.activation);
    z.store(place.in(output));
  }

 private:
  // For a channel whose squares, or differences, do not fit the type of the elements; it may have a
  // NaN or an infinity too. In double they do, those of doubles once they are scaled.
  __device__ void sum_again(int64_t channel) const {
    constexpr double kScale = std::is_same_v<T, double> ? 0x1p-600 : 1.0;
    const ChannelShape& shape = this->arguments.shape;
    const auto scaled = [&](int64_t i) {
      return static_cast<double>(widen(*this->arguments.input.at(shape, channel, i))) * kScale;
    };
    const double mean = this->sum_over(shape.per_channel(), scaled) / this->count();
    const double squares = this->sum_over(shape.per_channel(), [&](int64_t i) {
      const double distance = scaled(i) - mean;
      return distance * distance;
    });
    finish_training(channel, mean, squares, kScale);
  }

  // Of values that were scaled.
  __device__ void finish_training(int64_t channel, double mean, double squares,
                                  double scale) const {
    if (threadIdx.x != 0) {
      return;
    }
    const double count = this->count();
    const double of_scaled = squares / (count - this->arguments.correction);
    const double variance = of_scaled / scale / scale;
    mean /= scale;
    this->mean(channel) = mean;
    this->variance(channel) = variance;
    this->invstd(channel) =
        isinf(variance) ? scale / ::sqrt(of_scaled) : 1 / ::sqrt(variance + this->arguments.eps);
    if (running.mean.data != nullptr) {
      update(running.mean, channel, mean);
      update(running.variance, channel,
             variance * ((count - this->arguments.correction) / (count - 1)));
    }
  }

  __device__ void update(const FloatingVector& statistic, int64_t channel, double value) const {
    const double old = load_element(statistic, channel);
    store_element(statistic, channel, (1 - running.momentum) * old + running.momentum * value);
  }

  // The mean in two parts, of which the low one is part of the shift.
  __device__ void store_parameters(int64_t channel) const {
    const BatchNormArguments<T>& arguments = this->arguments;
    const double mean = this->mean(channel);
    const double scale = this->scale(channel);
    const double bias = arguments.bias == nullptr ? 0.0 : arguments.bias[channel];
    const C centre = static_cast<C>(mean);
    this->store_parameter(kCentre, channel, centre * kDown);
    this->store_parameter(kScale, channel, scale / kDown);
    this->store_parameter(kShift, channel, bias - (mean - static_cast<double>(centre)) * scale);
    this->store_parameter(kSlope, channel, 0);
  }
};

template <typename T>
struct BackwardPass : BatchNormPass<T, const double> {
  using C = Compute<T>;

  BatchNormGradients<T> gradients;

  BackwardPass(const BatchNormArguments<T>& arguments, const double* statistics,
               const BatchNormGradients<T>& gradients)
      : BatchNormPass<T, const double>(arguments, statistics), gradients(gradients) {}

  MAKEMORE_EXT_HOST_DEVICE bool needs_sums() const {
    return gradients.sums != nullptr || gradients.grad_weight != nullptr ||
           (this->arguments.training && needs_result() && gradients.shares == nullptr);
  }
  MAKEMORE_EXT_HOST_DEVICE bool needs_result() const {
    return gradients.grad_input.data != nullptr;
  }
  MAKEMORE_EXT_HOST_DEVICE bool has_output() const {
    return this->arguments.activation != Activation::none;
  }

  MAKEMORE_EXT_HOST_DEVICE Split split(const Place& place, int64_t size) const {
    const T* grad = place.in(gradients.grad_output);
    const T* y = has_output() ? place.in(gradients.output) : grad;
    const T* result = gradients.grad_input.data != nullptr ? place.in(gradients.grad_input) : grad;
    return Split::of(size, place.in(this->arguments.input), grad, y, result);
  }
  MAKEMORE_EXT_HOST_DEVICE bool any_stride(bool (*is)(int64_t)) const {
    return is(this->arguments.input.outer_stride) || is(gradients.grad_output.outer_stride) ||
           (has_output() && is(gradients.output.outer_stride)) ||
           (gradients.grad_input.data != nullptr && is(gradients.grad_input.outer_stride));
  }

  template <int count>
  __device__ PerLane<C, count> centre(const Part&, const Place&,
                                      const PerLane<int64_t, count>& channels) const {
    PerLane<C, count> result;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      result.values[k] = static_cast<C>(this->mean(channels[k]));
    }
    return result;
  }

  template <int count, int lanes>
  __device__ void add(const Place& place, const PerLane<C, lanes>& centre,
                      Terms<C, count>& terms) const {
    const auto dz = before_activation<count>(place);
    const auto x = Pack<T, count>::load(place.in(this->arguments.input));
#pragma unroll
    for (int k = 0; k < count; ++k) {
      terms.first[k] += dz.lane[k];
      terms.second[k] += dz.lane[k] * (x.lane[k] - centre[k]);
    }
  }

  __device__ void store(int64_t channel, int64_t part, C, double sum, double products) const {
    this->workspace.first[channel * this->cut.parts() + part] = sum;
    this->workspace.second[channel * this->cut.parts() + part] = products;
  }

  __device__ void finish(int64_t channel) const {
    double sum = 0;
    double products = 0;
    const double mean = this->mean(channel);
    const double invstd = this->invstd(channel);
    const C centre = static_cast<C>(mean);
    const double rest = mean - static_cast<double>(centre);
    if (needs_sums()) {
      const double* sums = this->workspace.first + channel * this->cut.parts();
      const double* about_centre = this->workspace.second + channel * this->cut.parts();
      sum = this->sum_over(this->cut.parts(), [&](int64_t part) { return sums[part]; });
      products =
          this->sum_over(this->cut.parts(), [&](int64_t part) { return about_centre[part]; });
      products = (products - rest * sum) * invstd;  // sum dz xhat
      if (!isfinite(products) && isfinite(invstd)) {
        products = sum_products_again(channel);
      }
    }
    if (threadIdx.x != 0) {
      return;
    }
    if (gradients.grad_weight != nullptr) {
      gradients.grad_weight[channel] = static_cast<C>(products);
      gradients.grad_bias[channel] = static_cast<C>(sum);
    }
    if (gradients.sums != nullptr) {
      gradients.sums[channel] = sum;
      gradients.sums[this->channels() + channel] = products;
    }
    if (gradients.shares != nullptr) {
      sum = gradients.shares[channel];
      products = gradients.shares[this->channels() + channel];
    } else {
      sum /= this->count();
      products /= this->count() - this->arguments.correction;
    }
    const double slope = products * invstd;
    this->store_parameter(kCentre, channel, centre * kDown);
    this->store_parameter(kScale, channel, this->scale(channel));
    this->store_parameter(kShift, channel, sum - rest * slope);
    this->store_parameter(kSlope, channel, slope / kDown);
  }

  // dx = scale (dz - shift - (x - centre) slope); evaluation has neither shift nor slope.
  template <int count, int lanes>
  __device__ void write(const Place& place, const Parameters<C, lanes>& parameters) const {
    auto dx = before_activation<count>(place);
    if (this->arguments.training) {
      const auto x = Pack<T, count>::load(place.in(this->arguments.input));
#pragma unroll
      for (int k = 0; k < count; ++k) {
        dx.lane[k] = (dx.lane[k] - parameters[kShift][k]) -
                     (x.lane[k] * kDown - parameters[kCentre][k]) * parameters[kSlope][k];
      }
    }
#pragma unroll
    for (int k = 0; k < count; ++k) {
      dx.lane[k] *= parameters[kScale][k];
    }
    dx.store(place.in(gradients.grad_input));
  }

 private:
  // sum dz xhat where dz (x - centre) did not fit the type of the elements: in double, of xhat.
  __device__ double sum_products_again(int64_t channel) const {
    const ChannelShape& shape = this->arguments.shape;
    const double mean = this->mean(channel) * kDown;
    const double invstd = this->invstd(channel) / kDown;
    return this->sum_over(shape.per_channel(), [&](int64_t i) {
      const Place place{i / shape.inner, channel, i % shape.inner};
      const double x = widen(*place.in(this->arguments.input));
      return before_activation<1>(place).lane[0] * ((x * kDown - mean) * invstd);
    });
  }

  // dz.
  template <int count>
  __device__ Pack<T, count> before_activation(const Place& place) const {
    auto grad = Pack<T, count>::load(place.in(gradients.grad_output));
    if (has_output()) {
      activate_backward(grad, Pack<T, count>::load(place.in(gradients.output)),
                        this->arguments.activation);
    }
    return grad;
  }
};

}  // namespace makemore_ext::cuda
