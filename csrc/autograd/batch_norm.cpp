// The derivatives of batch norm. Its gradients are the operator batch_norm_backward; tangents, and
// the derivatives of that operator, are in makemore_ext/ops/batch_norm/formulas.py.
#include <torch/library.h>

#include "derivatives.h"
#include "formulas.h"
#include "handles.h"
#include "plain.h"

namespace makemore_ext {
namespace {

using Options = BatchNormOptions;
using Forward = std::tuple<Tensor, Tensor>(const Tensor&, const OptionalTensor&,
                                           const OptionalTensor&, const OptionalTensor&,
                                           const OptionalTensor&, bool, double, double, int64_t);
using ForwardAndUpdate = std::tuple<Tensor, Tensor>(const Tensor&, const OptionalTensor&,
                                                    const OptionalTensor&, Tensor&, Tensor&, double,
                                                    double, double, int64_t);
using Backward = std::tuple<Tensor, Tensor, Tensor>(const Tensor&, const Tensor&,
                                                    const OptionalTensor&, const OptionalTensor&,
                                                    const Tensor&, bool, double, int64_t, bool,
                                                    bool);

constexpr const char* kFormulas = "makemore_ext.ops.batch_norm.formulas";

const auto& forward_operator() {
  static const auto found = find_operator<Forward>("makemore_ext::batch_norm_forward");
  return found;
}

const auto& forward_and_update_operator() {
  static const auto found =
      find_operator<ForwardAndUpdate>("makemore_ext::batch_norm_forward_and_update");
  return found;
}

const auto& backward_operator() {
  static const auto found = find_operator<Backward>("makemore_ext::batch_norm_backward");
  return found;
}

// What the formulas are told.
auto as_tuple(const Options& options) {
  return std::make_tuple(options.training, options.correction, options.activation);
}

// Of the output, for input, weight and bias. The output stands in for the argument of an
// activation.
struct BatchNormBackward : NodeOf<BatchNormBackward> {
  SavedVariable input, weight, statistics;
  SavedOutput output;
  Options options{};  // but for eps, which the statistics have

  template <typename Self>
  static auto members(Self& self) {
    return std::tie(self.input, self.weight, self.statistics, self.output, self.options.training,
                    self.options.correction, self.options.activation);
  }

  std::string name() const override { return "BatchNormBackward"; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) {
      return variable_list(3);
    }
    const Tensor& grad_output = grads[0];
    const Tensor input_ = input.unpack(), weight_ = weight.unpack();
    const Tensor output_ = unpack_output(output), statistics_ = unpack_doubles(statistics);
    const bool needs_grad_input = needs_gradient(0);
    const bool needs_grad_parameters = needs_gradient(1) || needs_gradient(2);
    if (is_plain_backward(grad_output, input_, weight_, output_, statistics_)) {
      const at::AutoDispatchBelowADInplaceOrView guard;
      const auto [grad_input, grad_weight, grad_bias] = entries().batch_norm_backward(
          to_handle(grad_output), to_handle(input_), to_handle(weight_), to_handle(output_),
          to_handle(statistics_), options, needs_grad_input, needs_grad_parameters);
      return {from_handle(grad_input), from_handle(grad_weight), from_handle(grad_bias)};
    }
    auto [grad_input, grad_weight, grad_bias] = backward_operator().call(
        grad_output, input_, optional(weight_), optional(output_), statistics_, options.training,
        options.correction, options.activation, needs_grad_input, needs_grad_parameters);
    return {needs_grad_input ? grad_input : Tensor(),
            needs_grad_parameters ? grad_weight : Tensor(),
            needs_grad_parameters ? grad_bias : Tensor()};
  }
};

// Of batch_norm_backward, for grad_output, input, weight and output.
struct BatchNormBackwardBackward : NodeOf<BatchNormBackwardBackward> {
  SavedVariable grad_output, input, weight, output, statistics;
  Options options{};

  template <typename Self>
  static auto members(Self& self) {
    return std::tie(self.grad_output, self.input, self.weight, self.output, self.statistics,
                    self.options.training, self.options.correction, self.options.activation);
  }

  std::string name() const override { return "BatchNormBackwardBackward"; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined() && !grads[1].defined() && !grads[2].defined()) {
      return variable_list(4);
    }
    return call_formula(kFormulas, "second_gradients",
                        {grads[0], grads[1], grads[2], grad_output.unpack(), input.unpack(),
                         weight.unpack(), output.unpack(), unpack_doubles(statistics)},
                        as_tuple(options));
  }
};

}  // namespace

void attach_batch_norm(const Tensor& output, const Tensor& statistics, const Tensor& input,
                       const Tensor& weight, const Tensor& bias, const Options& options) {
  c10::intrusive_ptr<BatchNormBackward> node;
  if (compute_requires_grad(input, weight, bias)) {
    node = c10::make_intrusive<BatchNormBackward>();
    node->set_next_edges(collect_next_edges(input, weight, bias));
    node->input = SavedVariable(input, false);
    node->weight = SavedVariable(weight, false);
    node->statistics = SavedVariable(statistics, false);
    node->options = options;
    set_history(output, node);
  }
  if (any_has_tangent(input, weight, bias)) {
    const variable_list tangents =
        call_formula(kFormulas, "tangent",
                     {primal_of(input), primal_of(weight), output, statistics, tangent_of(input),
                      tangent_of(weight), tangent_of(bias)},
                     as_tuple(options));
    set_tangent(output, tangents[0]);
  }
  if (node && options.activation != 0) {  // last, as it is saved with its tangent
    node->output = SavedOutput(output, true);
  }
}

namespace {

std::tuple<Tensor, Tensor> batch_norm_forward_autograd(
    c10::DispatchKeySet keys, const Tensor& input, const OptionalTensor& weight,
    const OptionalTensor& bias, const OptionalTensor& running_mean,
    const OptionalTensor& running_var, bool training, double correction, double eps,
    int64_t activation) {
  auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward_operator().redispatch(keys & c10::after_autograd_keyset, input, weight, bias,
                                         running_mean, running_var, training, correction, eps,
                                         activation);
  }();
  attach_batch_norm(std::get<0>(result), std::get<1>(result), input, or_undefined(weight),
                    or_undefined(bias), {training, correction, eps, activation});
  return result;
}

std::tuple<Tensor, Tensor> batch_norm_forward_and_update_autograd(
    c10::DispatchKeySet keys, const Tensor& input, const OptionalTensor& weight,
    const OptionalTensor& bias, Tensor& running_mean, Tensor& running_var, double momentum,
    double correction, double eps, int64_t activation) {
  auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward_and_update_operator().redispatch(keys & c10::after_autograd_keyset, input,
                                                    weight, bias, running_mean, running_var,
                                                    momentum, correction, eps, activation);
  }();
  attach_batch_norm(std::get<0>(result), std::get<1>(result), input, or_undefined(weight),
                    or_undefined(bias), {true, correction, eps, activation});
  return result;
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward_autograd(
    c10::DispatchKeySet keys, const Tensor& grad_output, const Tensor& input,
    const OptionalTensor& optional_weight, const OptionalTensor& optional_output,
    const Tensor& statistics, bool training, double correction, int64_t activation,
    bool needs_grad_input, bool needs_grad_parameters) {
  const Options options{training, correction, 0, activation};
  const Tensor weight = or_undefined(optional_weight), output = or_undefined(optional_output);
  auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return backward_operator().redispatch(
        keys & c10::after_autograd_keyset, grad_output, input, optional_weight, optional_output,
        statistics, training, correction, activation, needs_grad_input, needs_grad_parameters);
  }();
  const auto& [grad_input, grad_weight, grad_bias] = result;
  if (compute_requires_grad(grad_output, input, weight, output)) {
    const auto node = c10::make_intrusive<BatchNormBackwardBackward>();
    node->set_next_edges(collect_next_edges(grad_output, input, weight, output));
    node->grad_output = SavedVariable(grad_output, false);
    node->input = SavedVariable(input, false);
    node->weight = SavedVariable(weight, false);
    node->output = SavedVariable(output, false);
    node->statistics = SavedVariable(statistics, false);
    node->options = options;
    set_history(
        {needs_grad_input ? grad_input : Tensor(), needs_grad_parameters ? grad_weight : Tensor(),
         needs_grad_parameters ? grad_bias : Tensor()},
        node);
  }
  if (any_has_tangent(grad_output, input, weight, output)) {
    const variable_list tangents = call_formula(
        kFormulas, "second_tangents",
        {primal_of(grad_output), primal_of(input), primal_of(weight), primal_of(output), statistics,
         tangent_of(grad_output), tangent_of(input), tangent_of(weight), tangent_of(output)},
        as_tuple(options));
    if (needs_grad_input) {
      set_tangent(grad_input, tangents[0]);
    }
    if (needs_grad_parameters) {
      set_tangent(grad_weight, tangents[1]);
      set_tangent(grad_bias, tangents[2]);
    }
  }
  return result;
}

}  // namespace
}  // namespace makemore_ext

TORCH_LIBRARY_IMPL(makemore_ext, Autograd, library) {
  library.impl("batch_norm_forward", &makemore_ext::batch_norm_forward_autograd);
  library.impl("batch_norm_forward_and_update",
               &makemore_ext::batch_norm_forward_and_update_autograd);
  library.impl("batch_norm_backward", &makemore_ext::batch_norm_backward_autograd);
}
