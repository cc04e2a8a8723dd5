// The CPU kernels as the rest of the extension sees them: arguments and one table of functions per
// dtype. The kernels themselves are built once per instruction set; kernels() returns the table
// that this processor can run.
#pragma once

#include <cstdint>

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

template <typename T>
struct CrossEntropyArguments {
  Matrix<const T> logits;        // [rows, classes]
  Vector<const int64_t> target;  // [rows]
  const T* weight;               // [classes], or null for all ones
  int64_t ignore_index;
  double label_smoothing;
  Reduction reduction;
};

template <typename T>
struct BatchNormArguments {
  Matrix<const T> input;  // [rows, channels]
  const T* weight;        // [channels], or null for ones
  const T* bias;          // [channels], or null for zeros
  double correction;
  double eps;
  Activation activation;
};

template <typename T>
struct Kernels {
  // loss: [rows] for Reduction::none, else one value. lse: [2, rows], see cross_entropy.h.
  // total_weight: what the mean divides by. Throws std::out_of_range for a target outside
  // [0, classes) that is not ignore_index.
  void (*cross_entropy_forward)(const CrossEntropyArguments<T>&, T* loss, double* lse,
                                double* total_weight);
  // grad_output has stride 0 unless the reduction is none.
  void (*cross_entropy_backward)(const CrossEntropyArguments<T>&, Vector<const T> grad_output,
                                 const double* lse, double total_weight, Matrix<T> grad_input);

  // statistics: mean, variance (divided by rows - correction) and invstd, [3, channels]. Training
  // computes all of them, evaluation reads mean and variance and computes invstd.
  void (*batch_norm_forward)(const BatchNormArguments<T>&, bool training, double* statistics,
                             Matrix<T> output);
  // output is read only where there is an activation. In training the statistics depend on the
  // input, in evaluation they do not.
  void (*batch_norm_backward)(const BatchNormArguments<T>&, bool training, const double* statistics,
                              Matrix<const T> grad_output, Matrix<const T> output,
                              Matrix<T> grad_input, T* grad_weight, T* grad_bias);

  // grad_weight [vocabulary, features] = sums of the rows of grad_output [tokens, features] that
  // share an index. Throws std::out_of_range for an index outside [0, vocabulary).
  void (*embedding_backward)(Matrix<const T> grad_output, Vector<const int64_t> indices,
                             Matrix<T> grad_weight);

  // y[i] = f(x[i]): lets the tests verify vec.h element by element.
  void (*exp)(const T* x, T* y, int64_t count);
  void (*tanh)(const T* x, T* y, int64_t count);
};

struct KernelTables {
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

// "default" or "avx2": the best this processor has, or what MAKEMORE_EXT_CPU_CAPABILITY asks for.
// Decided at the first call; throws std::invalid_argument if it asks for what there is not.
const char* capability();

template <typename T>
const Kernels<T>& kernels();

}  // namespace makemore_ext::cpu
