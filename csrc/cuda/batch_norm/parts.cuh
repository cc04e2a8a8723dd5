// How the elements of a channel are cut into the parts that blocks sum, by the shape alone, so that
// the sums are the same bits on every device and in whatever order the blocks run; and what is kept
// of the parts between the kernels of a pass.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../../arguments.h"
#include "../launch.cuh"
#include "../reduce.cuh"
#include "elements.cuh"

namespace makemore_ext::cuda {

inline constexpr int kBatchNormThreads = 256;

// Enough blocks to keep the largest devices busy, few enough that little is handed on.
inline constexpr int64_t kManyBlocks = 2048;

// An element of a channel, in any view.
struct Place {
  int64_t row;  // of the outer dimension
  int64_t channel;
  int64_t index;  // within the plane, or of the column if channel is 0

  template <typename T>
  MAKEMORE_EXT_HOST_DEVICE T* in(const ChannelView<T>& view) const {
    return view.data + row * view.outer_stride + channel * view.channel_stride + index;
  }
};

// Rows [row, row + rows) of elements [index, index + size).
struct Part {
  int64_t row;
  int64_t rows;
  int64_t index;
  int64_t size;

  __device__ int64_t count() const { return rows * size; }
};

// The rows of `inner` elements of a channel, in bands of rows and those in chunks of elements.
struct Cut {
  int64_t rows;
  int64_t inner;
  int64_t band_rows;
  int64_t chunk_size;

  MAKEMORE_EXT_HOST_DEVICE int64_t bands() const { return ceil_div(rows, band_rows); }
  MAKEMORE_EXT_HOST_DEVICE int64_t chunks() const { return ceil_div(inner, chunk_size); }
  MAKEMORE_EXT_HOST_DEVICE int64_t parts() const { return bands() * chunks(); }

  __device__ Part part(int64_t index) const {
    const int64_t row = index / chunks() * band_rows;
    const int64_t begin = index % chunks() * chunk_size;
    return {row, rows - row < band_rows ? rows - row : band_rows, begin,
            inner - begin < chunk_size ? inner - begin : chunk_size};
  }
};

// What of a channel its elements are written from: see write in passes.cuh.
enum Parameter { kCentre, kScale, kShift, kSlope, kPassParameters };

// By which write scales elements, exactly, before it subtracts the centre: the difference of any
// two does not overflow, nor does the inverse of any standard deviation, scaled the other way, come
// near where floats lose digits.
inline constexpr float kDown = 0x1p-8f;

template <typename C, int count>
using Parameters = PerLane<C, count>[kPassParameters];

// Where the kernels keep what they hand on: for each part of each channel two values, and for each
// channel the parameters of write.
template <typename T>
struct BatchNormWorkspace {
  double* first;             // [channels, parts]
  double* second;            // [channels, parts]
  Compute<T>* of_parameter;  // [kPassParameters, channels]

  static int64_t size(int64_t channels, int64_t parts) {
    return channels * (2 * parts + kPassParameters);
  }
};

// What both passes know of the operation. statistics: [3, channels].
template <typename T, typename Statistic>
struct BatchNormPass {
  using Element = T;
  using C = Compute<T>;

  BatchNormArguments<T> arguments;
  Statistic* statistics;
  Cut cut;
  BatchNormWorkspace<T> workspace;

  BatchNormPass(const BatchNormArguments<T>& arguments, Statistic* statistics)
      : arguments(arguments), statistics(statistics), cut{}, workspace{} {}

  void use(const Cut& cut, double* data) {
    const int64_t parts = arguments.shape.channels * cut.parts();
    this->cut = cut;
    workspace = {data, data + parts, reinterpret_cast<C*>(data + 2 * parts)};
  }

  __device__ int64_t channels() const { return arguments.shape.channels; }
  __device__ Statistic& mean(int64_t channel) const { return statistics[channel]; }
  __device__ Statistic& variance(int64_t channel) const { return statistics[channels() + channel]; }
  __device__ Statistic& invstd(int64_t channel) const {
    return statistics[2 * channels() + channel];
  }
  __device__ double count() const { return static_cast<double>(arguments.shape.per_channel()); }
  __device__ double scale(int64_t channel) const {
    return invstd(channel) * (arguments.weight == nullptr ? 1.0 : arguments.weight[channel]);
  }

  // In double, over and for all threads of the block: the sum of value(i) for i < count.
  template <typename Value>
  __device__ double sum_over(int64_t count, const Value& value) const {
    double sum = 0;
#pragma unroll 1  // what divides takes too many registers to have several at once
    for (int64_t i = threadIdx.x; i < count; i += blockDim.x) {
      sum += value(i);
    }
    return block_sum_for_all(sum);
  }

  __device__ void store_parameter(int parameter, int64_t channel, double value) const {
    workspace.of_parameter[parameter * channels() + channel] = static_cast<C>(value);
  }
  __device__ C parameter(int parameter, int64_t channel) const {
    return workspace.of_parameter[parameter * channels() + channel];
  }
};

}  // namespace makemore_ext::cuda
