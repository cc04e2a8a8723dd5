// The tensors of a call of batch norm, checked, and as the kernels take them.
#pragma once

#include "../arguments.h"
#include "channel_views.h"
#include "entries.h"
#include "tensors.h"

namespace makemore_ext {

inline void check(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                  const BatchNormOptions& options) {
  STD_TORCH_CHECK(input.dim() >= 2, "input must have at least 2 dimensions, got ", input.dim());
  if (weight) {
    check_parameter(*weight, input.size(1), input, "weight");
  }
  if (bias) {
    check_parameter(*bias, input.size(1), input, "bias");
  }
  STD_TORCH_CHECK(options.activation >= 0 && options.activation <= 2,
                  "activation must be 0, 1 or 2, got ", options.activation);
  STD_TORCH_CHECK(options.correction == 0 || options.correction == 1,
                  "correction must be 0 or 1, got ", options.correction);
  STD_TORCH_CHECK(options.eps >= 0, "eps must be at least 0, got ", options.eps);
}

// What backward is given beside the input.
inline void check_for_backward(const Tensor& input, const Tensor& grad_output,
                               const OptionalTensor& output, const Tensor& statistics,
                               int64_t activation) {
  check_like(grad_output, input, "grad_output");
  check_device(grad_output, input, "grad_output");
  check_sizes(statistics, {3, input.size(1)}, "statistics");
  check_dtype(statistics, ScalarType::Double, "statistics");
  check_device(statistics, input, "statistics");
  STD_TORCH_CHECK(output.has_value() == (activation != 0),
                  "output must be given if and only if activation is not 0, got ",
                  output ? "one" : "none", " and ", activation);
  if (output) {
    check_like(*output, input, "output");
    check_device(*output, input, "output");
  }
}

template <typename T>
BatchNormArguments<T> arguments(const Tensor& input, const Viewed<T>& viewed,
                                const Converted<Compute<T>>& weight,
                                const Converted<Compute<T>>& bias, const BatchNormOptions& options,
                                bool channels_last) {
  return {channel_shape(input, channels_last),
          viewed.view(),
          weight.data(),
          bias.data(),
          options.training,
          options.correction,
          options.eps,
          static_cast<Activation>(options.activation)};
}

template <typename T>
Tensor allocate_workspace(const Tensor& input, const ChannelShape& shape) {
  return allocate(input, {cuda::batch_norm_workspace<T>(shape)}, ScalarType::Double);
}

}  // namespace makemore_ext
