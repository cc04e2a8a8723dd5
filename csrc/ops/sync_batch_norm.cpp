// The operators of batch norm of a batch that several processes share: what each does with its part
// of it, before it hears of the others and after. Forward ends as batch_norm_forward in evaluation,
// with the statistics of the whole batch.
#include <torch/csrc/stable/library.h>

#include <algorithm>

#include "../cpu/batch_norm/kernels.h"
#include "batch_norm_problem.h"

namespace makemore_ext {
namespace {

// Mean and variance, divided by the elements, of each channel; zeros where there are no elements.
Tensor batch_norm_statistics(const Tensor& input) {
  const BatchNormOptions options{true, 0, 0, 0};
  check(input, std::nullopt, std::nullopt, options);
  const bool channels_last = is_channels_last(input);
  Tensor statistics = allocate(input, {3, input.size(1)}, ScalarType::Double);
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    const Viewed<T> viewed(input, channels_last);
    const Converted<Compute<T>> none(std::nullopt);
    const BatchNormArguments<T> call =
        arguments<T>(input, viewed, none, none, options, channels_last);
    double* const values = mutable_data<double>(statistics);
    on_device_of(
        input,
        [&] {
          if (input.numel() == 0) {
            std::fill_n(values, statistics.numel(), 0.0);
          } else {
            cpu::kernels<cpu::BatchNormKernels<T>>().forward(call, values, {});
          }
        },
        [&](auto stream) {
          const Tensor workspace = allocate_workspace<T>(input, call.shape);
          cuda::batch_norm_forward<T>(call, {}, values, {}, mutable_data<double>(workspace),
                                      stream);
        });
  });
  return torch::stable::narrow(statistics, 0, 0, 2);
}

// One of the two results is computed: `sums` of this input's gradients, or, from `shares` of the
// sums of all, `grad_input`.
void backward(const Tensor& grad_output, const Tensor& input, const OptionalTensor& weight,
              const OptionalTensor& output, const Tensor& statistics, const OptionalTensor& shares,
              int64_t activation, const OptionalTensor& sums, const OptionalTensor& grad_input) {
  const BatchNormOptions options{true, 0, 0, activation};
  const bool channels_last = is_channels_last(input);
  const Tensor dense_statistics = make_contiguous(statistics);
  const OptionalTensor dense_shares = make_contiguous(shares);
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    const Viewed<T> viewed(input, channels_last), viewed_grad(grad_output, channels_last);
    const Viewed<T> viewed_output = output ? Viewed<T>(*output, channels_last) : Viewed<T>();
    const Converted<Compute<T>> converted_weight(weight), no_bias(std::nullopt);
    const BatchNormArguments<T> call =
        arguments<T>(input, viewed, converted_weight, no_bias, options, channels_last);
    const double* const known = const_data<double>(dense_statistics);
    BatchNormGradients<T> gradients{viewed_grad.view(),
                                    viewed_output.view(),
                                    const_data<double>(dense_shares),
                                    {},
                                    nullptr,
                                    nullptr,
                                    mutable_data<double>(sums)};
    if (grad_input) {
      gradients.grad_input = channel_view(*grad_input, mutable_data<T>(*grad_input), channels_last);
    }
    on_device_of(
        input,
        [&] {
          if (input.numel() > 0) {
            cpu::kernels<cpu::BatchNormKernels<T>>().backward(call, known, gradients);
          } else if (sums) {
            std::fill_n(gradients.sums, sums->numel(), 0.0);
          }
        },
        [&](auto stream) {
          const Tensor workspace = allocate_workspace<T>(input, call.shape);
          cuda::batch_norm_backward<T>(call, known, gradients, mutable_data<double>(workspace),
                                       stream);
        });
  });
}

Tensor batch_norm_gradient_sums(const Tensor& grad_output, const Tensor& input,
                                const OptionalTensor& output, const Tensor& statistics,
                                int64_t activation) {
  check(input, std::nullopt, std::nullopt, {true, 0, 0, activation});
  check_for_backward(input, grad_output, output, statistics, activation);
  const Tensor sums = allocate(input, {2, input.size(1)}, ScalarType::Double);
  backward(grad_output, input, std::nullopt, output, statistics, std::nullopt, activation, sums,
           std::nullopt);
  return sums;
}

Tensor batch_norm_input_gradient(const Tensor& grad_output, const Tensor& input,
                                 const OptionalTensor& weight, const OptionalTensor& output,
                                 const Tensor& statistics, const Tensor& shares,
                                 int64_t activation) {
  check(input, weight, std::nullopt, {true, 0, 0, activation});
  check_for_backward(input, grad_output, output, statistics, activation);
  check_sizes(shares, {2, input.size(1)}, "shares");
  check_dtype(shares, ScalarType::Double, "shares");
  check_device(shares, input, "shares");
  const Tensor grad_input = allocate_dense(input, is_channels_last(input));
  backward(grad_output, input, weight, output, statistics, shares, activation, std::nullopt,
           grad_input);
  return grad_input;
}

void implement(Library& library) {
  library.impl("batch_norm_statistics", TORCH_BOX(&batch_norm_statistics));
  library.impl("batch_norm_gradient_sums", TORCH_BOX(&batch_norm_gradient_sums));
  library.impl("batch_norm_input_gradient", TORCH_BOX(&batch_norm_input_gradient));
}

}  // namespace

MAKEMORE_EXT_ON_EVERY_DEVICE(implement)

}  // namespace makemore_ext
