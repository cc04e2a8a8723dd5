// What kernels are called with, on the CPU and on CUDA devices alike: views of tensors as raw
// pointers, sizes and strides, and the options of an operation.
#pragma once

#include <cstdint>

#include "dtypes.h"

#ifdef __CUDACC__
#define MAKEMORE_EXT_HOST_DEVICE __host__ __device__
#define MAKEMORE_EXT_NO_UNROLL _Pragma("unroll 1")
#else
#define MAKEMORE_EXT_HOST_DEVICE
#define MAKEMORE_EXT_NO_UNROLL
#endif

namespace makemore_ext {

// A 2-D view; strides count elements and may be zero or negative.
template <typename T>
struct Matrix {
  T* data;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;

  MAKEMORE_EXT_HOST_DEVICE T* row(int64_t index) const { return data + index * row_stride; }
};

template <typename T>
struct Vector {
  T* data;
  int64_t stride;

  MAKEMORE_EXT_HOST_DEVICE T& operator[](int64_t index) const { return data[index * stride]; }
};

enum class Reduction : int64_t { none = 0, mean = 1, sum = 2 };  // torch's numbering
enum class Activation : int64_t { none = 0, tanh = 1, relu = 2 };

// The rows of an N-D tensor whose dimension 1 holds the classes: every position in the other
// dimensions is one row. Neighbouring dimensions that every view of a call can walk as one are
// one here; the innermost is the last.
inline constexpr int kMostRowDimensions = 8;

struct RowShape {
  int64_t rows;
  int64_t classes;
  int dimensions;
  int64_t sizes[kMostRowDimensions];

  MAKEMORE_EXT_HOST_DEVICE int64_t inner() const {
    return dimensions == 0 ? 1 : sizes[dimensions - 1];
  }
};

template <typename T>
struct RowView {
  T* data;  // null where there is none
  int64_t class_stride;
  int64_t strides[kMostRowDimensions];

  MAKEMORE_EXT_HOST_DEVICE T* row(const RowShape& shape, int64_t index) const {
    T* result = data;
    MAKEMORE_EXT_NO_UNROLL
    for (int dim = shape.dimensions - 1; dim > 0; --dim) {
      const int64_t before = index / shape.sizes[dim];
      result += (index - before * shape.sizes[dim]) * strides[dim];
      index = before;
    }
    return shape.dimensions == 0 ? result : result + index * strides[0];
  }
  MAKEMORE_EXT_HOST_DEVICE int64_t inner_stride(const RowShape& shape) const {
    return shape.dimensions == 0 ? 0 : strides[shape.dimensions - 1];
  }
};

// Class indices in one of two widths, contiguous.
struct Indices {
  const int64_t* wide;
  const uint8_t* narrow;

  MAKEMORE_EXT_HOST_DEVICE int64_t operator[](int64_t row) const {
    return wide != nullptr ? wide[row] : narrow[row];
  }
};

template <typename T>
struct CrossEntropyArguments {
  RowShape shape;
  RowView<const T> logits;
  Indices target;                  // either these,
  RowView<const T> probabilities;  // or, if has_probabilities, these
  bool has_probabilities;
  const Compute<T>* weight;  // [classes], or null for all ones
  int64_t ignore_index;
  double label_smoothing;
  double lse_square_scale;
  Reduction reduction;
};

// An N-D tensor with a channel in dimension 1, as [outer, channels, inner].
struct ChannelShape {
  int64_t outer;
  int64_t channels;
  int64_t inner;

  MAKEMORE_EXT_HOST_DEVICE int64_t per_channel() const { return outer * inner; }
  MAKEMORE_EXT_HOST_DEVICE int64_t elements() const { return outer * channels * inner; }
};

// Either the channels lie side by side (inner is 1 and so is channel_stride), or every channel is
// in planes of `inner` elements that do (inner_stride is 1).
template <typename T>
struct ChannelView {
  T* data;  // null where there is none
  int64_t outer_stride;
  int64_t channel_stride;
  int64_t inner_stride;

  // The element at `index` of those of a channel.
  MAKEMORE_EXT_HOST_DEVICE T* at(const ChannelShape& shape, int64_t channel, int64_t index) const {
    return data + index / shape.inner * outer_stride + channel * channel_stride +
           index % shape.inner * inner_stride;
  }
};

template <typename T>
struct BatchNormArguments {
  ChannelShape shape;
  ChannelView<const T> input;
  const Compute<T>* weight;  // [channels], or null for ones
  const Compute<T>* bias;    // [channels], or null for zeros
  bool training;             // whether the statistics are functions of the input
  double correction;
  double eps;
  Activation activation;
};

// What batch norm's backward is given and asked for. Of the results those are null that are not
// needed.
template <typename T>
struct BatchNormGradients {
  ChannelView<const T> grad_output;
  ChannelView<const T> output;  // null without an activation
  // sum dz and sum dz xhat of a batch that this input is a part of, divided by its elements and by
  // those less the correction, [2, channels]; null where the input is the whole batch.
  const double* shares;
  ChannelView<T> grad_input;
  Compute<T>* grad_weight;  // [channels]; both of these or none
  Compute<T>* grad_bias;
  double* sums;  // sum dz and sum dz xhat of this input, [2, channels]
};

}  // namespace makemore_ext
