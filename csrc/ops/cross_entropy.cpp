// The operators of cross entropy: checks, allocation, and the call into the kernels.
//
// input is [N, C, d1, ...] or [C]; a row is one position in the dimensions other than C. target
// holds class indices, of the rows' shape, or probabilities, of input's shape and dtype. Losses and
// lse are of the dtype that input is computed in, weights of that one or of input's own.
#include <torch/csrc/stable/library.h>

#include <array>
#include <cmath>
#include <tuple>
#include <vector>

#include "../cpu/cross_entropy/kernels.h"
#include "cross_entropy_problem.h"
#include "entries.h"
#include "row_views.h"
#include "tensors.h"

namespace makemore_ext {
namespace {

using Options = CrossEntropyOptions;
using Keeps = CrossEntropyKeeps;
using GradientMemory = CrossEntropyProblem::GradientMemory;
using Problem = CrossEntropyProblem;

// Of every row, from the statistics: max + log_sum.
Tensor log_sum_exp(const Tensor& statistics, const Tensor& input) {
  std::array stack{torch::stable::detail::from(torch::stable::select(statistics, 0, 1))};
  TORCH_ERROR_CODE_CHECK(torch_call_dispatcher("aten::log", "", stack.data(), TORCH_ABI_VERSION));
  const Tensor log_sum = torch::stable::detail::to<Tensor>(stack[0]);
  const Tensor max = torch::stable::select(statistics, 0, 0);
  return torch::stable::to(torch::stable::subtract(max, log_sum, -1), compute_dtype(input));
}

struct Forward {
  Tensor loss;
  OptionalTensor statistics, total_weight;
};

Forward forward(const Problem& problem, const Tensor& input, const Options& options,
                bool keep_statistics) {
  const auto sizes = options.reduced() ? std::vector<int64_t>{} : row_sizes(input, {});
  Forward result{allocate(input, sizes, compute_dtype(input)), std::nullopt, std::nullopt};
  if (keep_statistics) {
    result.statistics = allocate(input, row_sizes(input, {3}), ScalarType::Double);
  }
  if (keep_statistics || input.is_cuda()) {
    result.total_weight = allocate(input, {}, ScalarType::Double);
  }
  double on_cpu = 0;  // a tensor would take as long as a small kernel
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    Compute<T>* loss = mutable_data<Compute<T>>(result.loss);
    double* statistics = mutable_data<double>(result.statistics);
    double* total_weight =
        result.total_weight ? mutable_data<double>(*result.total_weight) : &on_cpu;
    const CrossEntropyArguments<T> arguments = problem.arguments<T>();
    const RowView<T> gradient = problem.gradient_view<T>();
    on_device_of(
        input,
        [&] {
          cpu::kernels<cpu::CrossEntropyKernels<T>>().forward(arguments, loss, statistics,
                                                              total_weight, gradient);
        },
        [&](auto stream) {
          const Tensor workspace =
              allocate(input, {cuda::cross_entropy_workspace(arguments.shape)}, ScalarType::Double);
          cuda::cross_entropy_forward<T>(arguments, loss, statistics, total_weight, gradient,
                                         mutable_data<double>(workspace), stream);
        });
  });
  return result;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_forward(
    const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
    int64_t ignore_index, double label_smoothing, double lse_square_scale, bool return_lse) {
  const Options options{reduction, ignore_index, label_smoothing, lse_square_scale};
  const Problem problem(input, target, weight, options, GradientMemory::none);
  const Forward result = forward(problem, input, options, true);
  return {result.loss, *result.statistics, *result.total_weight,
          return_lse ? log_sum_exp(*result.statistics, input)
                     : allocate(input, {0}, compute_dtype(input))};
}

std::tuple<Tensor, Tensor> cross_entropy_forward_with_gradient(
    const Tensor& input, const Tensor& target, const OptionalTensor& weight, int64_t reduction,
    int64_t ignore_index, double label_smoothing, double lse_square_scale) {
  const Options options{reduction, ignore_index, label_smoothing, lse_square_scale};
  STD_TORCH_CHECK(options.reduced(), "reduction must be 1 or 2, got ", reduction);
  const Problem problem(input, target, weight, options, GradientMemory::fresh);
  return {forward(problem, input, options, false).loss, *problem.gradient()};
}

void check_upstream(const Tensor& grad_output, const OptionalTensor& grad_lse, const Tensor& input,
                    const Options& options) {
  const std::vector<int64_t> sizes = row_sizes(input, {});
  check_sizes(grad_output, options.reduced() ? std::vector<int64_t>{} : sizes, "grad_output");
  check_dtype(grad_output, compute_dtype(input), "grad_output");
  check_device(grad_output, input, "grad_output");
  if (grad_lse) {
    check_sizes(*grad_lse, sizes, "grad_lse");
    check_dtype(*grad_lse, compute_dtype(input), "grad_lse");
    check_device(*grad_lse, input, "grad_lse");
  }
}

void backward(const Problem& problem, const Tensor& grad_output, const OptionalTensor& grad_lse,
              const Tensor& input, const Tensor& statistics, const Tensor& total_weight,
              const Options& options) {
  check_upstream(grad_output, grad_lse, input, options);
  check_sizes(statistics, row_sizes(input, {3}), "statistics");
  check_dtype(statistics, ScalarType::Double, "statistics");
  check_device(statistics, input, "statistics");
  check_sizes(total_weight, {}, "total_weight");
  check_dtype(total_weight, ScalarType::Double, "total_weight");
  check_device(total_weight, input, "total_weight");

  if (problem.in_place()) {
    STD_TORCH_CHECK(!has_overlap(input),
                    "input must not overlap itself, as it is written to, got strides ",
                    as_list(input.strides()));
    check_separate(input, "input", grad_output, "grad_output");
    check_separate(input, "input", grad_lse, "grad_lse");
    check_separate(input, "input", problem.target(), "target");
    check_separate(input, "input", problem.weight(), "weight");
    check_separate(input, "input", statistics, "statistics");
    check_separate(input, "input", total_weight, "total_weight");
  }

  const Tensor dense_statistics = make_contiguous(statistics);
  const Tensor dense_grad_output = make_contiguous(grad_output);
  const OptionalTensor dense_grad_lse = make_contiguous(grad_lse);
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    using C = Compute<T>;
    const Vector<const C> upstream{const_data<C>(dense_grad_output), options.reduced() ? 0 : 1};
    const Vector<const C> lse_upstream{const_data<C>(dense_grad_lse), 1};
    const double* known = const_data<double>(dense_statistics);
    const double* total = const_data<double>(total_weight);
    const CrossEntropyArguments<T> arguments = problem.arguments<T>();
    const RowView<T> gradient = problem.gradient_view<T>();
    on_device_of(
        input,
        [&] {
          cpu::kernels<cpu::CrossEntropyKernels<T>>().backward(arguments, upstream, lse_upstream,
                                                               known, *total, gradient);
        },
        [&](auto stream) {
          cuda::cross_entropy_backward<T>(arguments, upstream, lse_upstream, known, total, gradient,
                                          stream);
        });
  });
}

Tensor cross_entropy_backward(const Tensor& grad_output, const OptionalTensor& grad_lse,
                              const Tensor& input, const Tensor& target,
                              const OptionalTensor& weight, const Tensor& statistics,
                              const Tensor& total_weight, int64_t reduction, int64_t ignore_index,
                              double label_smoothing, double lse_square_scale) {
  const Options options{reduction, ignore_index, label_smoothing, lse_square_scale};
  const Problem problem(input, target, weight, options, GradientMemory::fresh);
  backward(problem, grad_output, grad_lse, input, statistics, total_weight, options);
  return *problem.gradient();
}

void cross_entropy_backward_in_place(const Tensor& grad_output, const OptionalTensor& grad_lse,
                                     Tensor& input, const Tensor& target,
                                     const OptionalTensor& weight, const Tensor& statistics,
                                     const Tensor& total_weight, int64_t reduction,
                                     int64_t ignore_index, double label_smoothing,
                                     double lse_square_scale) {
  const Options options{reduction, ignore_index, label_smoothing, lse_square_scale};
  const Problem problem(input, target, weight, options, GradientMemory::logits);
  backward(problem, grad_output, grad_lse, input, statistics, total_weight, options);
}

// gradient *= factor but for ignored rows, whose gradient is no product: infinity would make 0 NaN.
template <typename T>
void scale_valid_rows(const RowShape& shape, const RowView<T>& gradient, const Indices& target,
                      int64_t ignore_index, double factor) {
  for (int64_t row = 0; row < shape.rows; ++row) {
    if (target[row] != ignore_index) {
      T* const dx = gradient.row(shape, row);
      for (int64_t c = 0; c < shape.classes; ++c) {
        T& element = dx[c * gradient.class_stride];
        element = from_double<T>(to_double(element) * factor);
      }
    }
  }
}

// For a gradient that was formed before the upstream gradient was known: mostly that is 1.
void cross_entropy_scale(Tensor& gradient, const Tensor& factor, const Tensor& target,
                         int64_t ignore_index) {
  check_target(target, gradient);
  check_sizes(factor, {}, "factor");
  check_dtype(factor, compute_dtype(gradient), "factor");
  check_device(factor, gradient, "factor");
  STD_TORCH_CHECK(!has_gap_or_overlap(gradient), "gradient must be dense, got strides ",
                  as_list(gradient.strides()));
  check_separate(gradient, "gradient", factor, "factor");
  check_separate(gradient, "gradient", target, "target");
  const JoinedRows rows({&gradient});
  STD_TORCH_CHECK(rows.fit(), "gradient must have at most ", kMostRowDimensions,
                  " dimensions that cannot be joined, got ", rows.shape().dimensions);
  const Tensor dense_target = is_probabilities(target) ? target : make_contiguous(target);
  const Indices indices = indices_of(dense_target);
  with_floating_type(gradient.scalar_type(), "gradient", [&](auto zero) {
    using T = decltype(zero);
    const Compute<T>* by = const_data<Compute<T>>(factor);
    const RowView<T> view = rows.view(gradient, mutable_data<T>(gradient));
    on_device_of(
        gradient,
        [&] {
          if (!std::isfinite(*by) && !is_probabilities(target)) {
            scale_valid_rows(rows.shape(), view, indices, ignore_index, *by);
          } else if (*by != 1) {
            std::array<StableIValue, 2> stack{torch::stable::detail::from(gradient),
                                              torch::stable::detail::from(factor)};
            TORCH_ERROR_CODE_CHECK(
                torch_call_dispatcher("aten::mul_", "Tensor", stack.data(), TORCH_ABI_VERSION));
            torch::stable::detail::to<Tensor>(stack[0]);  // what it returns is ours to release
          }
        },
        [&](auto stream) {
          cuda::cross_entropy_scale<T>(rows.shape(), view, indices, ignore_index, by, stream);
        });
  });
}

void implement(Library& library) {
  library.impl("cross_entropy_forward", TORCH_BOX(&cross_entropy_forward));
  library.impl("cross_entropy_forward_with_gradient",
               TORCH_BOX(&cross_entropy_forward_with_gradient));
  library.impl("cross_entropy_backward", TORCH_BOX(&cross_entropy_backward));
  library.impl("cross_entropy_backward_", TORCH_BOX(&cross_entropy_backward_in_place));
  library.impl("cross_entropy_scale_", TORCH_BOX(&cross_entropy_scale));
}

}  // namespace

CrossEntropyResults cross_entropy_entry(Handle input, Handle target, Handle weight,
                                        const CrossEntropyOptions& options, CrossEntropyKeeps keeps,
                                        bool return_lse, bool in_input_dtype) {
  const Tensor logits(input);
  const Problem problem(logits, Tensor(target), take_handle(weight), options,
                        keeps == Keeps::gradient ? GradientMemory::fresh : GradientMemory::none);
  const bool keep = keeps == Keeps::statistics;
  const Forward result = forward(problem, logits, options, keep || return_lse);
  return {give_handle(in_input_dtype ? convert(result.loss, logits.scalar_type()) : result.loss),
          keep ? give_handle(result.statistics) : nullptr,
          keep ? give_handle(result.total_weight) : nullptr,
          return_lse ? give_handle(log_sum_exp(*result.statistics, logits)) : nullptr,
          give_handle(problem.gradient())};
}

Handle cross_entropy_backward_entry(Handle grad_output, Handle grad_lse, Handle input,
                                    Handle target, Handle weight, Handle statistics,
                                    Handle total_weight, const CrossEntropyOptions& options,
                                    bool in_place) {
  const Tensor logits(input);
  const Problem problem(logits, Tensor(target), take_handle(weight), options,
                        in_place ? GradientMemory::logits : GradientMemory::fresh);
  backward(problem, convert(Tensor(grad_output), compute_dtype(logits)), take_handle(grad_lse),
           logits, Tensor(statistics), Tensor(total_weight), options);
  return in_place ? nullptr : give_handle(problem.gradient());
}

std::array<Handle, 3> cross_entropy_second_gradients_entry(Handle grad_grad_input,
                                                           Handle grad_output, Handle grad_lse,
                                                           Handle input, Handle target,
                                                           Handle weight,
                                                           const CrossEntropyOptions& options) {
  const Tensor logits(input);
  const Problem problem(logits, Tensor(target), take_handle(weight), options, GradientMemory::fresh,
                        Tensor(grad_grad_input));
  const Tensor dense_grad_output = make_contiguous(Tensor(grad_output));
  const OptionalTensor dense_grad_lse = make_contiguous(take_handle(grad_lse));
  check_upstream(dense_grad_output, dense_grad_lse, logits, options);
  const Tensor for_output = allocate_like(dense_grad_output);
  const OptionalTensor for_lse =
      dense_grad_lse ? OptionalTensor(allocate_like(*dense_grad_lse)) : std::nullopt;
  with_floating_type(logits.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    using C = Compute<T>;
    const int64_t stride = options.reduced() ? 0 : 1;
    cpu::kernels<cpu::CrossEntropyKernels<T>>().second_gradients(
        problem.arguments<T>(), {problem.grad_grad_input_view<T>(),
                                 {const_data<C>(dense_grad_output), stride},
                                 {const_data<C>(dense_grad_lse), 1},
                                 {mutable_data<C>(for_output), stride},
                                 {mutable_data<C>(for_lse), 1},
                                 problem.gradient_view<T>()});
  });
  return {give_handle(for_output), give_handle(for_lse), give_handle(problem.gradient())};
}

void cross_entropy_scale_entry(Handle gradient, Handle factor, Handle target,
                               int64_t ignore_index) {
  Tensor scaled(gradient);
  cross_entropy_scale(scaled, convert(Tensor(factor), compute_dtype(scaled)), Tensor(target),
                      ignore_index);
}

MAKEMORE_EXT_ON_EVERY_DEVICE(implement)

}  // namespace makemore_ext
