// The operators of batch norm: checks, allocation, and the call into the kernels.
#include <torch/csrc/stable/library.h>

#include <tuple>

#include "tensors.h"

namespace makemore_ext {
namespace {

template <typename T>
cpu::BatchNormArguments<T> batch_norm_arguments(const Tensor& input, const OptionalTensor& weight,
                                                const OptionalTensor& bias, double correction,
                                                double eps, int64_t activation) {
  return {const_matrix<T>(input),
          const_data<T>(weight),
          const_data<T>(bias),
          correction,
          eps,
          static_cast<Activation>(activation)};
}

void check_batch_norm(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                      int64_t activation) {
  check_dim(input, 2, "input");
  if (weight) {
    check_vector(*weight, input.size(1), input.scalar_type(), "weight");
  }
  if (bias) {
    check_vector(*bias, input.size(1), input.scalar_type(), "bias");
  }
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, "activation must be 0, 1 or 2");
}

// Copies a vector of any floating type to `destination`.
void copy_to_double(const Tensor& source, double* destination) {
  with_wide_type(source.scalar_type(), "running statistics", [&](auto zero) {
    using T = decltype(zero);
    const T* data = const_data<T>(source);
    for (int64_t i = 0; i < source.size(0); ++i) {
      destination[i] = data[i * source.stride(0)];
    }
  });
}

// training: the statistics are the batch's. Otherwise running_mean and running_var are needed.
std::tuple<Tensor, Tensor> batch_norm_forward(const Tensor& input, const OptionalTensor& weight,
                                              const OptionalTensor& bias,
                                              const OptionalTensor& running_mean,
                                              const OptionalTensor& running_var, bool training,
                                              double correction, double eps, int64_t activation) {
  check_batch_norm(input, weight, bias, activation);
  const int64_t channels = input.size(1);
  Tensor output = allocate(input, {input.size(0), channels});
  Tensor statistics = allocate(input, {3, channels}, ScalarType::Double);
  if (!training) {
    STD_TORCH_CHECK(running_mean && running_var, "evaluation needs running statistics");
    for (const OptionalTensor& running : {running_mean, running_var}) {
      check_dim(*running, 1, "running statistics");
      check_size(*running, 0, channels, "running statistics");
    }
    copy_to_double(*running_mean, mutable_data<double>(statistics));
    copy_to_double(*running_var, mutable_data<double>(statistics) + channels);
  }
  const OptionalTensor dense_weight = make_contiguous(weight);
  const OptionalTensor dense_bias = make_contiguous(bias);
  with_wide_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().batch_norm_forward(
        batch_norm_arguments<T>(input, dense_weight, dense_bias, correction, eps, activation),
        training, mutable_data<double>(statistics), mutable_matrix<T>(output));
  });
  return {output, statistics};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& grad_output,
                                                       const Tensor& input,
                                                       const OptionalTensor& weight,
                                                       const OptionalTensor& output,
                                                       const Tensor& statistics, bool training,
                                                       double correction, int64_t activation) {
  check_batch_norm(input, weight, std::nullopt, activation);
  check_like(grad_output, input, "grad_output");
  check_dim(statistics, 2, "statistics");
  check_size(statistics, 0, 3, "statistics");
  check_size(statistics, 1, input.size(1), "statistics");
  check_dtype(statistics, ScalarType::Double, "statistics");
  STD_TORCH_CHECK(statistics.is_contiguous(), "statistics must be contiguous");
  STD_TORCH_CHECK(output.has_value() == (activation != 0),
                  "output must be given exactly when there is an activation");
  if (output) {
    check_like(*output, input, "output");
  }
  const OptionalTensor dense_weight = make_contiguous(weight);
  Tensor grad_input = allocate(input, {input.size(0), input.size(1)});
  Tensor grad_weight = allocate(input, {input.size(1)});
  Tensor grad_bias = allocate(input, {input.size(1)});
  with_wide_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().batch_norm_backward(
        batch_norm_arguments<T>(input, dense_weight, std::nullopt, correction, 0, activation),
        training, const_data<double>(statistics), const_matrix<T>(grad_output),
        output ? const_matrix<T>(*output) : Matrix<const T>{}, mutable_matrix<T>(grad_input),
        mutable_data<T>(grad_weight), mutable_data<T>(grad_bias));
  });
  return {grad_input, grad_weight, grad_bias};
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(makemore_ext, CPU, library) {
  library.impl("batch_norm_forward", TORCH_BOX(&batch_norm_forward));
  library.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

}  // namespace makemore_ext
