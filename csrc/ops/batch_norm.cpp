// The operators of batch norm: checks, allocation, and the call into the kernels.
//
// input is [N, C, d1, ...]. Output and gradient of the input are dense, channels last where torch
// would suggest that for the input, else contiguous. A view that the kernels cannot walk as it is
// gets copied to be like the output. Weight and bias are of the input's dtype or of the one it is
// computed in, and so are their gradients.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <cmath>
#include <tuple>
#include <type_traits>
#include <vector>

#include "../cpu/batch_norm/kernels.h"
#include "batch_norm_problem.h"

namespace makemore_ext {
namespace {

using Options = BatchNormOptions;

// Of any floating dtype: read in evaluation, updated in training, unless there are none.
struct Running {
  OptionalTensor mean;
  OptionalTensor variance;
  double momentum;
};

void check_several_values(const Tensor& input, const Options& options) {
  STD_TORCH_CHECK(!options.training || input.numel() != input.size(1) || input.size(1) == 0,
                  "input must have more than 1 value per channel in training, got 1");
}

void check(const Running& running, const Tensor& input) {
  const auto check_one = [&](const Tensor& vector, const char* name) {
    with_floating_type(vector.scalar_type(), name, [](auto) {});
    check_dim(vector, 1, name);
    check_size(vector, 0, input.size(1), name);
    check_device(vector, input, name);
  };
  check_one(*running.mean, "running_mean");
  check_one(*running.variance, "running_var");
}

void check_update(const Running& running, const Tensor& input, const OptionalTensor& weight,
                  const OptionalTensor& bias) {
  STD_TORCH_CHECK(std::isfinite(running.momentum), "momentum must be finite, got ",
                  running.momentum);
  const auto check_one = [&](const Tensor& vector, const char* name) {
    STD_TORCH_CHECK(!has_overlap(vector), name,
                    " must not overlap itself, as it is written to, got strides ",
                    as_list(vector.strides()));
    check_separate(vector, name, input, "input");
    check_separate(vector, name, weight, "weight");
    check_separate(vector, name, bias, "bias");
  };
  check_one(*running.mean, "running_mean");
  check_one(*running.variance, "running_var");
}

// Only a tensor that is written may lose its copy-on-write.
template <typename T>
T* running_data(const Tensor& vector, bool write) {
  return write ? mutable_data<T>(vector) : const_cast<T*>(const_data<T>(vector));
}

// running = (1 - momentum) running + momentum factor statistic
void update(const Tensor& running, const double* statistic, double momentum, double factor) {
  with_floating_type(running.scalar_type(), "running statistics", [&](auto zero) {
    using T = decltype(zero);
    T* const data = mutable_data<T>(running);
    const int64_t size = running.size(0), stride = running.stride(0);
    for (int64_t i = 0; i < size; ++i) {
      T& element = data[i * stride];
      element =
          from_double<T>((1 - momentum) * to_double(element) + momentum * (statistic[i] * factor));
    }
  });
}

template <typename T>
void forward_on_cpu(const BatchNormArguments<T>& arguments, const Running& running,
                    double* statistics, const ChannelView<T>& output) {
  const int64_t channels = arguments.shape.channels;
  if (arguments.shape.elements() == 0) {
    std::fill(statistics, statistics + 3 * channels, 0.0);
    return;
  }
  if (!arguments.training) {
    copy_values(*running.mean, statistics);
    copy_values(*running.variance, statistics + channels);
  }
  cpu::kernels<cpu::BatchNormKernels<T>>().forward(arguments, statistics, output);
  if (arguments.training && running.mean) {
    const double count = static_cast<double>(arguments.shape.per_channel());
    update(*running.mean, statistics, running.momentum, 1);
    update(*running.variance, statistics + channels, running.momentum,
           (count - arguments.correction) / (count - 1));
  }
}

// Only called where there is CUDA.
[[maybe_unused]] cuda::FloatingVector floating_vector(const OptionalTensor& vector, bool write) {
  if (!vector) {
    return {};
  }
  return with_floating_type(vector->scalar_type(), "running statistics", [&](auto zero) {
    using T = decltype(zero);
    return cuda::FloatingVector{running_data<T>(*vector, write), vector->stride(0),
                                cuda::kFloatingType<T>};
  });
}

struct Forward {
  Tensor output;
  OptionalTensor statistics;
};

Forward forward(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                const Running& running, const Options& options, bool keep_statistics) {
  check(input, weight, bias, options);
  check_several_values(input, options);
  if (running.mean || !options.training) {
    STD_TORCH_CHECK(running.mean && running.variance,
                    "running_mean and running_var must be given in evaluation, got ",
                    running.mean ? "running_mean alone" : "no running_mean");
    check(running, input);
  }
  if (running.mean && options.training) {
    check_update(running, input, weight, bias);
  }
  const bool channels_last = is_channels_last(input);
  Tensor output = allocate_dense(input, channels_last);
  OptionalTensor statistics;
  std::vector<double> on_cpu;  // sooner there than a tensor
  if (keep_statistics || input.is_cuda()) {
    statistics = allocate(input, {3, input.size(1)}, ScalarType::Double);
  } else {
    on_cpu.resize(3 * input.size(1));
  }
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    const Viewed<T> viewed(input, channels_last);
    const Converted<Compute<T>> converted_weight(weight), converted_bias(bias);
    const BatchNormArguments<T> call =
        arguments<T>(input, viewed, converted_weight, converted_bias, options, channels_last);
    double* const values = statistics ? mutable_data<double>(*statistics) : on_cpu.data();
    const ChannelView<T> result = channel_view(output, mutable_data<T>(output), channels_last);
    on_device_of(
        input, [&] { forward_on_cpu(call, running, values, result); },
        [&](auto stream) {
          const Tensor workspace = allocate_workspace<T>(input, call.shape);
          cuda::batch_norm_forward<T>(
              call,
              {floating_vector(running.mean, options.training),
               floating_vector(running.variance, options.training), running.momentum},
              values, result, mutable_data<double>(workspace), stream);
        });
  });
  return {output, statistics};
}

std::tuple<Tensor, Tensor> batch_norm_forward(const Tensor& input, const OptionalTensor& weight,
                                              const OptionalTensor& bias,
                                              const OptionalTensor& running_mean,
                                              const OptionalTensor& running_var, bool training,
                                              double correction, double eps, int64_t activation) {
  const Running running = training ? Running{} : Running{running_mean, running_var, 0};
  const Forward result =
      forward(input, weight, bias, running, {training, correction, eps, activation}, true);
  return {result.output, *result.statistics};
}

std::tuple<Tensor, Tensor> batch_norm_forward_and_update(const Tensor& input,
                                                         const OptionalTensor& weight,
                                                         const OptionalTensor& bias,
                                                         Tensor& running_mean, Tensor& running_var,
                                                         double momentum, double correction,
                                                         double eps, int64_t activation) {
  const Forward result = forward(input, weight, bias, {running_mean, running_var, momentum},
                                 {true, correction, eps, activation}, true);
  return {result.output, *result.statistics};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(
    const Tensor& grad_output, const Tensor& input, const OptionalTensor& weight,
    const OptionalTensor& output, const Tensor& statistics, bool training, double correction,
    int64_t activation, bool needs_grad_input, bool needs_grad_parameters) {
  const Options options{training, correction, 0, activation};
  check(input, weight, std::nullopt, options);
  check_several_values(input, options);
  check_for_backward(input, grad_output, output, statistics, activation);
  const Tensor dense_statistics = make_contiguous(statistics);
  const bool channels_last = is_channels_last(input);
  Tensor grad_input =
      needs_grad_input ? allocate_dense(input, channels_last) : allocate(input, {0});
  const int64_t channels = needs_grad_parameters ? input.size(1) : 0;
  Tensor grad_weight = allocate(input, {channels}, compute_dtype(input));
  Tensor grad_bias = allocate(input, {channels}, compute_dtype(input));
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    using C = Compute<T>;
    if (!needs_grad_input && !needs_grad_parameters) {
      return;
    }
    const Viewed<T> viewed(input, channels_last);
    const Converted<C> converted_weight(weight), no_bias(std::nullopt);
    const Viewed<T> viewed_grad(grad_output, channels_last);
    const Viewed<T> viewed_output = output ? Viewed<T>(*output, channels_last) : Viewed<T>();
    const BatchNormArguments<T> call =
        arguments<T>(input, viewed, converted_weight, no_bias, options, channels_last);
    const double* const known = const_data<double>(dense_statistics);
    BatchNormGradients<T> gradients{
        viewed_grad.view(), viewed_output.view(), nullptr, {}, nullptr, nullptr, nullptr};
    if (needs_grad_input) {
      gradients.grad_input = channel_view(grad_input, mutable_data<T>(grad_input), channels_last);
    }
    if (needs_grad_parameters) {
      gradients.grad_weight = mutable_data<C>(grad_weight);
      gradients.grad_bias = mutable_data<C>(grad_bias);
    }
    on_device_of(
        input,
        [&] {
          if (input.numel() == 0) {
            std::fill_n(gradients.grad_weight, channels, C(0));
            std::fill_n(gradients.grad_bias, channels, C(0));
          } else {
            cpu::kernels<cpu::BatchNormKernels<T>>().backward(call, known, gradients);
          }
        },
        [&](auto stream) {
          const Tensor workspace = allocate_workspace<T>(input, call.shape);
          cuda::batch_norm_backward<T>(call, known, gradients, mutable_data<double>(workspace),
                                       stream);
        });
  });
  const ScalarType dtype = weight ? weight->scalar_type() : compute_dtype(input);
  return {grad_input, convert(grad_weight, dtype), convert(grad_bias, dtype)};
}

void implement(Library& library) {
  library.impl("batch_norm_forward", TORCH_BOX(&batch_norm_forward));
  library.impl("batch_norm_forward_and_update", TORCH_BOX(&batch_norm_forward_and_update));
  library.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
}

}  // namespace

std::array<Handle, 2> batch_norm_entry(Handle input, Handle weight, Handle bias,
                                       Handle running_mean, Handle running_var, double momentum,
                                       const BatchNormOptions& options, bool keep_statistics) {
  const Forward result = forward(Tensor(input), take_handle(weight), take_handle(bias),
                                 {take_handle(running_mean), take_handle(running_var), momentum},
                                 options, keep_statistics);
  return {give_handle(result.output), keep_statistics ? give_handle(result.statistics) : nullptr};
}

std::array<Handle, 3> batch_norm_backward_entry(Handle grad_output, Handle input, Handle weight,
                                                Handle output, Handle statistics,
                                                const BatchNormOptions& options,
                                                bool needs_grad_input, bool needs_grad_parameters) {
  const auto [grad_input, grad_weight, grad_bias] = batch_norm_backward(
      Tensor(grad_output), Tensor(input), take_handle(weight), take_handle(output),
      Tensor(statistics), options.training, options.correction, options.activation,
      needs_grad_input, needs_grad_parameters);
  return {needs_grad_input ? give_handle(grad_input) : nullptr,
          needs_grad_parameters ? give_handle(grad_weight) : nullptr,
          needs_grad_parameters ? give_handle(grad_bias) : nullptr};
}

MAKEMORE_EXT_ON_EVERY_DEVICE(implement)

}  // namespace makemore_ext
