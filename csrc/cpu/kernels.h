// The CPU kernels as the rest of the extension sees them: arguments and one table of functions per
// dtype. The kernels themselves are built once per instruction set; kernels() returns the table
// that this processor can run.
#pragma once

#include <cstdint>

#include "dtypes.h"

namespace makemore_ext::cpu {

// A 2-D view; strides count elements and may be zero or negative.
template <typename T>
struct Matrix {
  T* data;
  int64_t rows;
  int64_t columns;
  int64_t row_stride;
  int64_t column_stride;

  T* row(int64_t index) const { return data + index * row_stride; }
};

template <typename T>
struct Vector {
  T* data;
  int64_t stride;

  T& operator[](int64_t index) const { return data[index * stride]; }
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

  int64_t inner() const { return dimensions == 0 ? 1 : sizes[dimensions - 1]; }
};

template <typename T>
struct RowView {
  T* data;  // null where there is none
  int64_t class_stride;
  int64_t strides[kMostRowDimensions];

  T* row(const RowShape& shape, int64_t index) const {
    T* result = data;
    for (int dim = shape.dimensions - 1; dim > 0; --dim) {
      result += index % shape.sizes[dim] * strides[dim];
      index /= shape.sizes[dim];
    }
    return shape.dimensions == 0 ? result : result + index * strides[0];
  }
  int64_t inner_stride(const RowShape& shape) const {
    return shape.dimensions == 0 ? 0 : strides[shape.dimensions - 1];
  }
};

// Class indices in one of two widths, contiguous.
struct Indices {
  const int64_t* wide;
  const uint8_t* narrow;

  int64_t operator[](int64_t row) const { return wide != nullptr ? wide[row] : narrow[row]; }
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

  int64_t per_channel() const { return outer * inner; }
  int64_t elements() const { return outer * channels * inner; }
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
  T* at(const ChannelShape& shape, int64_t channel, int64_t index) const {
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

// What backward is given and asked for. Of the gradients those are null that are not needed.
template <typename T>
struct BatchNormGradients {
  ChannelView<const T> grad_output;
  ChannelView<const T> output;  // null without an activation
  ChannelView<T> grad_input;
  Compute<T>* grad_weight;  // [channels]; both of these or none
  Compute<T>* grad_bias;
};

// The network of csrc/cpu/fused_mlp.h.
struct MLPSizes {
  int64_t vocabulary;
  int64_t context;
  int64_t embedding;
  int64_t hidden;
};

enum MLPParameter { kC, kW1, kB1, kW2, kB2, kBngain, kBnbias, kMLPParameters };

// One contiguous array for each parameter, in the order and of the shape that
// makemore_ext.reference gives Parameters.
template <typename T>
struct MLPArrays {
  T* of[kMLPParameters];

  T* operator[](int parameter) const { return of[parameter]; }
};

// Windows and the memory to work on them. Every index in x and y is in [0, vocabulary), every one
// in `minibatches` a row of them.
template <typename T>
struct MLPTask {
  MLPSizes sizes;
  MLPArrays<T> parameters;
  const int64_t* x;            // [windows, context]
  const int64_t* y;            // [windows]
  const int64_t* minibatches;  // [steps, batch_size]
  int64_t batch_size;          // at least 2
  void* workspace;             // fused_mlp_workspace() bytes, aligned to 64 and zero when new
};

// Stochastic gradient descent as torch.optim.SGD defines it, without dampening.
template <typename T>
struct MLPDescent {
  int64_t steps;
  const double* lr;  // [steps]
  double momentum;
  double weight_decay;
  MLPArrays<T> momentum_buffers;  // null without momentum
};

template <typename T>
struct Kernels {
  // loss: [rows] for Reduction::none, else one value. statistics: max, log_sum and A of each row,
  // see cross_entropy.h, [3, rows], or null. total_weight: what the mean divides by. gradient: that
  // of the reduced loss, or without data. Throws std::out_of_range for a target outside [0,
  // classes) that is not ignore_index.
  void (*cross_entropy_forward)(const CrossEntropyArguments<T>&, Compute<T>* loss,
                                double* statistics, double* total_weight, RowView<T> gradient);
  // grad_output: of the loss, with stride 0 where it was reduced. grad_lse: or without data. The
  // gradient may take the memory of the logits.
  void (*cross_entropy_backward)(const CrossEntropyArguments<T>&,
                                 Vector<const Compute<T>> grad_output,
                                 Vector<const Compute<T>> grad_lse, const double* statistics,
                                 double total_weight, RowView<T> gradient);

  // statistics: mean, variance (divided by the elements of a channel - correction) and invstd,
  // [3, channels]. Training computes all of them, evaluation reads mean and variance and computes
  // invstd.
  void (*batch_norm_forward)(const BatchNormArguments<T>&, double* statistics,
                             ChannelView<T> output);
  void (*batch_norm_backward)(const BatchNormArguments<T>&, const double* statistics,
                              const BatchNormGradients<T>&);

  // grad_weight [vocabulary, features] = sums of the rows of grad_output [tokens, features] that
  // share an index. Throws std::out_of_range for an index outside [0, vocabulary).
  void (*embedding_backward)(Matrix<const T> grad_output, Vector<const int64_t> indices,
                             Matrix<T> grad_weight);

  // The bytes of workspace that minibatches of this size need.
  int64_t (*fused_mlp_workspace)(const MLPSizes&, int64_t batch_size);
  // The mean loss of one minibatch and its gradients.
  T (*fused_mlp_loss_and_gradients)(const MLPTask<T>&, MLPArrays<T> gradients);
  // Takes steps: changes parameters and momentum buffers. losses: [steps], before each update.
  void (*fused_mlp_train)(const MLPTask<T>&, const MLPDescent<T>&, T* losses);

  // What the tests verify element by element. y[i] = f(x[i]), for float and double:
  void (*exp)(const T* x, T* y, int64_t count);
  void (*exp_nonpositive)(const T* x, T* y, int64_t count);
  void (*log)(const T* x, T* y, int64_t count);
  void (*tanh)(const T* x, T* y, int64_t count);
  // and the conversions from and to the type T is computed in:
  void (*widen)(const T* x, Compute<T>* y, int64_t count);
  void (*narrow)(const Compute<T>* x, T* y, int64_t count);
};

struct KernelTables {
  Kernels<Half> for_half;
  Kernels<BFloat16> for_bfloat16;
  Kernels<float> for_float;
  Kernels<double> for_double;
};

// Both throw std::out_of_range. Outside the kernels, which use no std::string: its inline members
// would be built once per instruction set under one name.
[[noreturn]] void throw_target_out_of_range(int64_t target);
[[noreturn]] void throw_index_out_of_range(int64_t index, int64_t vocabulary);

// The tables of each build of csrc/cpu/kernels.cpp.
namespace baseline {
extern const KernelTables tables;
}
namespace avx2 {
extern const KernelTables tables;
}
namespace avx512 {
extern const KernelTables tables;
}

// "default", "avx2" or "avx512": the best this processor has, or what MAKEMORE_EXT_CPU_CAPABILITY
// asks for. Decided at the first call; throws std::invalid_argument if it asks for what there is
// not.
const char* capability();

template <typename T>
const Kernels<T>& kernels();

}  // namespace makemore_ext::cpu
