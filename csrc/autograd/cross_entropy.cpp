// The derivatives of cross entropy. The gradient of the logits is the operator
// cross_entropy_backward, or is formed along with the loss; the others, and those of that operator,
// are in makemore_ext/ops/cross_entropy/formulas.py.
#include "cross_entropy.h"

#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <torch/library.h>

#include "formulas.h"
#include "handles.h"
#include "nodes.h"
#include "python_arguments.h"

namespace makemore_ext {
namespace {

using Options = CrossEntropyOptions;
using Keeps = CrossEntropyKeeps;
using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&,
                                                           const OptionalTensor&, int64_t, int64_t,
                                                           double, double, bool);
using Backward = Tensor(const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&,
                        const OptionalTensor&, const Tensor&, const Tensor&, int64_t, int64_t,
                        double, double);

constexpr const char* kFormulas = "makemore_ext.ops.cross_entropy.formulas";

const auto& forward_operator() {
  static const auto found = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("makemore_ext::cross_entropy_forward", "")
                                .typed<Forward>();
  return found;
}

const auto& backward_operator() {
  static const auto found = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("makemore_ext::cross_entropy_backward", "")
                                .typed<Backward>();
  return found;
}

auto as_tuple(const Options& options) {
  const auto& [reduction, ignore_index, label_smoothing, lse_square_scale] = options;
  return std::make_tuple(reduction, ignore_index, label_smoothing, lse_square_scale);
}

Tensor call_backward(const Tensor& grad_loss, const Tensor& grad_lse, const Tensor& input,
                     const Tensor& target, const Tensor& weight, const Tensor& statistics,
                     const Tensor& total_weight, const Options& options) {
  return backward_operator().call(grad_loss, optional(grad_lse), input, target, optional(weight),
                                  statistics, total_weight, options.reduction, options.ignore_index,
                                  options.label_smoothing, options.lse_square_scale);
}

// The tensor alone, not what saved it.
Tensor take(SavedVariable& saved) {
  const SavedVariable taken = std::exchange(saved, SavedVariable());
  return taken.unpack();
}

// `gradient` times `factor`, in its own memory where nobody else holds that.
Tensor scaled(Tensor gradient, const Tensor& factor) {
  if (factor.is_cpu() && factor.item().toDouble() == 1) {
    return gradient;
  }
  if (gradient.use_count() > 1 || gradient.storage().use_count() > 1) {
    return gradient.mul(factor);
  }
  entries().cross_entropy_scale(to_handle(gradient), to_handle(factor));
  return gradient;
}

// Of loss and lse, for input, target and weight. What it starts from is the gradient, where that
// was formed along with the loss, or else the statistics.
struct CrossEntropyBackward : NodeOf<CrossEntropyBackward> {
  SavedVariable input, target, weight, statistics, total_weight, gradient;
  bool has_gradient = false;
  bool is_taken = false;  // the gradient, by the first backward
  bool in_place = false;
  Options options{};

  template <typename Self>
  static auto members(Self& self) {
    return std::tie(self.input, self.target, self.weight, self.statistics, self.total_weight,
                    self.gradient, self.has_gradient, self.is_taken, self.in_place,
                    self.options.reduction, self.options.ignore_index, self.options.label_smoothing,
                    self.options.lse_square_scale);
  }

  std::string name() const override { return "CrossEntropyBackward"; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined() && !grads[1].defined()) {
      return variable_list(3);
    }
    const bool needs_others = task_should_compute_output(1) || task_should_compute_output(2);
    TORCH_CHECK(!in_place || !(at::GradMode::is_enabled() || needs_others),
                "inplace_backward must be False with create_graph=True and for gradients of "
                "target or weight, got True");
    const std::lock_guard<std::mutex> lock(mutex_);
    const Tensor target_ = target.unpack(), weight_ = weight.unpack();
    const bool is_plain_here = is_plain_backward(grads[0]);
    if (has_gradient && !at::GradMode::is_enabled() && (is_plain_here || !is_taken)) {
      return {of_saved_gradient(grads[0]), Tensor(), Tensor()};
    }
    const Tensor input_ = input.unpack();
    const at::ScalarType dtype = compute_dtype(input_);
    const Tensor grad_lse = grads[1];
    Tensor grad_loss = grads[0];
    if (!grad_loss.defined()) {
      grad_loss = options.reduced() ? at::zeros({}, grad_lse.options()) : at::zeros_like(grad_lse);
    }
    grad_loss = grad_loss.to(dtype);
    const Tensor weight_in_dtype = weight_.defined() ? weight_.to(dtype) : weight_;
    variable_list result(3);
    if (task_should_compute_output(0)) {
      result[0] = of_input(grad_loss, grad_lse, input_, target_, weight_in_dtype);
    }
    if (needs_others) {
      const variable_list others =
          call_formula(kFormulas, "gradients_of_target", {grad_loss, input_, target_, weight_},
                       as_tuple(options));
      result[1] = others[0];
      result[2] = others[1];
    }
    return result;
  }

 private:
  Tensor of_saved_gradient(const Tensor& grad_loss) {
    if (!is_plain_backward(grad_loss)) {
      return gradient.unpack().mul(grad_loss);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor saved = is_taken ? form_gradient() : take(gradient);
    is_taken = true;
    return scaled(saved, grad_loss.to(compute_dtype(saved)));
  }

  // Once more, in the same way and with the same roundings.
  Tensor form_gradient() {
    const Tensor input_ = input.unpack(), weight_ = weight.unpack();
    const CrossEntropyResults results = entries().cross_entropy(
        to_handle(input_), to_handle(target.unpack()),
        to_handle(weight_.defined() ? weight_.to(compute_dtype(input_)) : weight_), options,
        Keeps::gradient, false);
    from_handle(results.loss);
    return from_handle(results.grad_input);
  }

  Tensor of_input(const Tensor& grad_loss, const Tensor& grad_lse, const Tensor& input_,
                  const Tensor& target_, const Tensor& weight_) {
    Tensor statistics_ = statistics.unpack(), total_weight_ = total_weight.unpack();
    if (!statistics_.defined()) {
      const at::NoGradGuard no_grad;
      std::tie(std::ignore, statistics_, total_weight_, std::ignore) = forward_operator().call(
          input_, target_, optional(weight_), options.reduction, options.ignore_index,
          options.label_smoothing, options.lse_square_scale, false);
    }
    if (!is_plain_backward(grad_loss, grad_lse, input_, target_, weight_)) {
      return call_backward(grad_loss, grad_lse, input_, target_, weight_, statistics_,
                           total_weight_, options);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor grad_input = from_handle(entries().cross_entropy_backward(
        to_handle(grad_loss), to_handle(grad_lse), to_handle(input_), to_handle(target_),
        to_handle(weight_), to_handle(statistics_), to_handle(total_weight_), options, in_place));
    if (in_place) {
      torch::autograd::impl::bump_version(input_);
      return input_.detach();
    }
    return grad_input;
  }
};

// Of cross_entropy_backward, for its first five tensors.
struct CrossEntropyBackwardBackward : NodeOf<CrossEntropyBackwardBackward> {
  SavedVariable grad_loss, grad_lse, input, target, weight;
  Options options{};

  template <typename Self>
  static auto members(Self& self) {
    return std::tie(self.grad_loss, self.grad_lse, self.input, self.target, self.weight,
                    self.options.reduction, self.options.ignore_index, self.options.label_smoothing,
                    self.options.lse_square_scale);
  }

  std::string name() const override { return "CrossEntropyBackwardBackward"; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) {
      return variable_list(5);
    }
    return call_formula(kFormulas, "second_gradients",
                        {grads[0], grad_loss.unpack(), grad_lse.unpack(), input.unpack(),
                         target.unpack(), weight.unpack()},
                        as_tuple(options));
  }
};

// The node of a loss, which is to be given what it saves beside its three tensors.
c10::intrusive_ptr<CrossEntropyBackward> make_node(const Tensor& input, const Tensor& target,
                                                   const Tensor& weight, const Options& options) {
  auto node = c10::make_intrusive<CrossEntropyBackward>();
  node->set_next_edges(collect_next_edges(input, target, weight));
  node->input = SavedVariable(input, false);
  node->target = SavedVariable(target, false);
  node->weight = SavedVariable(weight, false);
  node->options = options;
  return node;
}

std::tuple<Tensor, Tensor, Tensor, Tensor> cross_entropy_forward_autograd(
    c10::DispatchKeySet keys, const Tensor& input, const Tensor& target,
    const OptionalTensor& optional_weight, int64_t reduction, int64_t ignore_index,
    double label_smoothing, double lse_square_scale, bool return_lse) {
  const Options options{reduction, ignore_index, label_smoothing, lse_square_scale};
  const Tensor weight = or_undefined(optional_weight);
  auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward_operator().redispatch(keys & c10::after_autograd_keyset, input, target,
                                         optional_weight, reduction, ignore_index, label_smoothing,
                                         lse_square_scale, return_lse);
  }();
  const auto& [loss, statistics, total_weight, lse] = result;
  if (compute_requires_grad(input, target, weight)) {
    const auto node = make_node(input, target, weight, options);
    node->statistics = SavedVariable(statistics, false);
    node->total_weight = SavedVariable(total_weight, false);
    set_history({loss, return_lse ? lse : Tensor()}, node);
  }
  if (any_has_tangent({input, target, weight})) {
    const variable_list tangents =
        call_formula(kFormulas, "tangents",
                     {primal_of(input), primal_of(target), primal_of(weight), tangent_of(input),
                      tangent_of(target), tangent_of(weight)},
                     as_tuple(options));
    set_tangent(loss, tangents[0]);
    set_tangent(lse, return_lse ? tangents[1] : Tensor());
  }
  return result;
}

Tensor cross_entropy_backward_autograd(c10::DispatchKeySet keys, const Tensor& grad_loss,
                                       const OptionalTensor& optional_grad_lse, const Tensor& input,
                                       const Tensor& target, const OptionalTensor& optional_weight,
                                       const Tensor& statistics, const Tensor& total_weight,
                                       int64_t reduction, int64_t ignore_index,
                                       double label_smoothing, double lse_square_scale) {
  const Options options{reduction, ignore_index, label_smoothing, lse_square_scale};
  const Tensor grad_lse = or_undefined(optional_grad_lse), weight = or_undefined(optional_weight);
  const Tensor grad_input = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return backward_operator().redispatch(keys & c10::after_autograd_keyset, grad_loss,
                                          optional_grad_lse, input, target, optional_weight,
                                          statistics, total_weight, reduction, ignore_index,
                                          label_smoothing, lse_square_scale);
  }();
  if (compute_requires_grad(grad_loss, grad_lse, input, target, weight)) {
    const auto node = c10::make_intrusive<CrossEntropyBackwardBackward>();
    node->set_next_edges(collect_next_edges(grad_loss, grad_lse, input, target, weight));
    node->grad_loss = SavedVariable(grad_loss, false);
    node->grad_lse = SavedVariable(grad_lse, false);
    node->input = SavedVariable(input, false);
    node->target = SavedVariable(target, false);
    node->weight = SavedVariable(weight, false);
    node->options = options;
    set_history(grad_input, node);
  }
  if (any_has_tangent({grad_loss, grad_lse, input, target, weight})) {
    const variable_list tangents = call_formula(
        kFormulas, "second_tangent",
        {primal_of(grad_loss), primal_of(grad_lse), primal_of(input), primal_of(target),
         primal_of(weight), tangent_of(grad_loss), tangent_of(grad_lse), tangent_of(input),
         tangent_of(target), tangent_of(weight)},
        as_tuple(options));
    set_tangent(grad_input, tangents[0]);
  }
  return grad_input;
}

// The arguments of a call from Python.
struct Call {
  Tensor input, target, weight;
  Options options{};
  bool inplace_backward = false;
  bool return_lse = false;

  bool read_from(PyObject* const* arguments) {
    return read(arguments[0], &input) && read(arguments[1], &target) &&
           read_optional(arguments[2], &weight) && read(arguments[3], &options.ignore_index) &&
           read_choice(arguments[4], {{"mean", 1}, {"sum", 2}, {"none", 0}}, &options.reduction) &&
           read(arguments[5], &options.label_smoothing) && read(arguments[6], &inplace_backward) &&
           read(arguments[7], &return_lse) && read(arguments[8], &options.lse_square_scale);
  }

  bool has_probabilities() const { return target.is_floating_point(); }

  bool are_rows(at::IntArrayRef sizes) const {
    const at::IntArrayRef all = input.sizes();
    const std::size_t dim = all.size() == 1 ? 0 : 1;
    return sizes.size() + 1 == all.size() && sizes.slice(0, dim) == all.slice(0, dim) &&
           sizes.slice(dim) == all.slice(dim + 1);
  }

  int64_t classes() const { return input.size(input.dim() == 1 ? 0 : 1); }

  // Whether it is one of those that need no conversion and no word of error.
  bool is_served() const {
    if (!is_supported(input) || input.dim() == 0 || classes() == 0 ||
        target.device() != input.device() ||
        !(options.label_smoothing >= 0 && options.label_smoothing <= 1)) {
      return false;
    }
    if (has_probabilities()) {
      if (target.scalar_type() != input.scalar_type() || target.sizes() != input.sizes() ||
          options.ignore_index >= 0) {
        return false;
      }
    } else if ((target.scalar_type() != at::kLong && target.scalar_type() != at::kByte) ||
               !are_rows(target.sizes())) {
      return false;
    }
    if (input.is_cuda() && std::getenv("MAKEMORE_EXT_CHECK") != nullptr) {
      return false;
    }
    return !weight.defined() ||
           (weight.dim() == 1 && weight.size(0) == classes() && weight.device() == input.device() &&
            weight.scalar_type() == input.scalar_type() &&
            (has_probabilities() || !compute_requires_grad(weight)));
  }
};

// Loss and lse, the latter undefined where it is not asked for.
std::pair<Tensor, Tensor> compute(const Call& call) {
  const auto& [input, target, weight, options, inplace_backward, return_lse] = call;
  const bool needs_grad = compute_requires_grad(input, target, weight);
  // A half's upstream gradient may be there to keep the gradient from underflow.
  const bool forms_gradient = options.reduced() && input.scalar_type() != at::kHalf &&
                              !inplace_backward && !return_lse &&
                              !compute_requires_grad(target, weight);
  const Keeps keeps = !needs_grad      ? Keeps::nothing
                      : forms_gradient ? Keeps::gradient
                                       : Keeps::statistics;
  Tensor loss, lse, statistics, total_weight, gradient;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const Tensor weight_in_dtype = weight.defined() ? weight.to(compute_dtype(input)) : weight;
    const CrossEntropyResults results =
        entries().cross_entropy(to_handle(input), to_handle(target), to_handle(weight_in_dtype),
                                options, keeps, return_lse);
    loss = from_handle(results.loss);
    lse = from_handle(results.lse);
    statistics = from_handle(results.statistics);
    total_weight = from_handle(results.total_weight);
    gradient = from_handle(results.grad_input);
    if (loss.scalar_type() != input.scalar_type() &&
        !at::autocast::is_autocast_enabled(input.device().type())) {
      loss = loss.to(input.scalar_type());
    }
  }
  if (needs_grad) {
    const auto node = make_node(input, target, weight, options);
    node->in_place = inplace_backward;
    node->has_gradient = gradient.defined();
    node->gradient = SavedVariable(gradient, false);
    node->statistics = SavedVariable(statistics, false);
    node->total_weight = SavedVariable(total_weight, false);
    set_history({loss, lse}, node);
  }
  return {loss, lse};
}

}  // namespace

PyObject* cross_entropy(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Call call;
  if (count != 9 || !is_plain_call() || !call.read_from(arguments) || !call.is_served()) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  RECORD_FUNCTION("makemore_ext::cross_entropy_forward", c10::ArrayRef<const c10::IValue>{});
  std::pair<Tensor, Tensor> result;
  try {
    const pybind11::gil_scoped_release no_gil;
    result = compute(call);
  } catch (const std::out_of_range& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
    return nullptr;
  }
  auto& [loss, lse] = result;
  if (!call.return_lse) {
    return THPVariable_Wrap(std::move(loss));
  }
  return pybind11::make_tuple(std::move(loss), std::move(lse)).release().ptr();
  END_HANDLE_TH_ERRORS
}

}  // namespace makemore_ext

TORCH_LIBRARY_IMPL(makemore_ext, Autograd, library) {
  library.impl("cross_entropy_forward", &makemore_ext::cross_entropy_forward_autograd);
  library.impl("cross_entropy_backward", &makemore_ext::cross_entropy_backward_autograd);
}
