// The derivatives of cross entropy. The gradient of the logits is the operator
// cross_entropy_backward, or is formed along with the loss; the others, and those of that operator,
// are in makemore_ext/ops/cross_entropy/formulas.py.
#include <torch/library.h>

#include <cmath>

#include "derivatives.h"
#include "formulas.h"
#include "handles.h"
#include "plain.h"

namespace makemore_ext {
namespace {

using Options = CrossEntropyOptions;
using Forward = std::tuple<Tensor, Tensor, Tensor, Tensor>(const Tensor&, const Tensor&,
                                                           const OptionalTensor&, int64_t, int64_t,
                                                           double, double, bool);
using ForwardWithGradient = std::tuple<Tensor, Tensor>(const Tensor&, const Tensor&,
                                                       const OptionalTensor&, int64_t, int64_t,
                                                       double, double);
using Backward = Tensor(const Tensor&, const OptionalTensor&, const Tensor&, const Tensor&,
                        const OptionalTensor&, const Tensor&, const Tensor&, int64_t, int64_t,
                        double, double);

constexpr const char* kFormulas = "makemore_ext.ops.cross_entropy.formulas";

const auto& forward_operator() {
  static const auto found = find_operator<Forward>("makemore_ext::cross_entropy_forward");
  return found;
}

const auto& forward_with_gradient_operator() {
  static const auto found =
      find_operator<ForwardWithGradient>("makemore_ext::cross_entropy_forward_with_gradient");
  return found;
}

const auto& backward_operator() {
  static const auto found = find_operator<Backward>("makemore_ext::cross_entropy_backward");
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
  return std::exchange(saved, SavedVariable()).unpack();
}

// `gradient` times `factor`, in its own memory where nobody else holds that. Ignored rows, which
// have none, have none of an infinity either.
Tensor scaled(Tensor gradient, const Tensor& factor, const Tensor& target, const Options& options) {
  const bool is_ours = gradient.use_count() == 1 && gradient.storage().use_count() == 1;
  if (factor.is_cpu()) {
    const double value = factor.item().toDouble();
    if (value == 1) {
      return gradient;
    }
    if (std::isfinite(value)) {
      return is_ours ? gradient.mul_(factor) : gradient.mul(factor);
    }
  }
  if (!is_ours) {
    gradient = gradient.clone();
  }
  entries().cross_entropy_scale(to_handle(gradient), to_handle(factor), to_handle(target),
                                options.ignore_index);
  return gradient;
}

// The same in operations of torch.
Tensor multiplied(const Tensor& gradient, const Tensor& factor, const Tensor& target,
                  const Options& options) {
  const Tensor product = gradient.mul(factor);
  if (target.is_floating_point()) {
    return product;
  }
  const Tensor ignored = target.to(at::kLong).eq(options.ignore_index);  // no number wraps in it
  return at::where(ignored.unsqueeze(gradient.dim() == 1 ? 0 : 1), gradient, product);
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
    const bool needs_others = needs_gradient(1) || needs_gradient(2);
    TORCH_CHECK(!in_place || !(at::GradMode::is_enabled() || needs_others),
                "inplace_backward must be False with create_graph=True and for gradients of "
                "target or weight, got True");
    const std::lock_guard<std::mutex> lock(mutex_);
    const Tensor target_ = target.unpack(), weight_ = weight.unpack();
    if (has_gradient &&
        (is_plain_backward(grads[0]) || !(is_taken || at::GradMode::is_enabled()))) {
      return {of_saved_gradient(grads[0], target_), Tensor(), Tensor()};
    }
    const Tensor input_ = input.unpack();  // each once, as checkpoint has it
    const Tensor statistics_ = unpack_doubles(statistics);
    const Tensor grad_lse = grads[1];
    Tensor grad_loss = grads[0];
    if (!grad_loss.defined()) {
      grad_loss = options.reduced() ? at::zeros({}, grad_lse.options()) : at::zeros_like(grad_lse);
    }
    Tensor grad_input;
    if (needs_gradient(0)) {
      grad_input = of_input(grad_loss, grad_lse, input_, target_, weight_, statistics_);
    }
    variable_list others(2);
    if (needs_others) {
      const bool is_plain = is_plain_backward(grad_loss, input_, target_, weight_);
      const Tensor known = is_plain ? statistics_ : Tensor();
      others = call_formula(kFormulas, "gradients_of_target",
                            {grad_loss, input_, target_, weight_, known}, as_tuple(options));
    }
    return {grad_input, others[0], others[1]};
  }

 private:
  Tensor of_saved_gradient(const Tensor& grad_loss, const Tensor& target_) {
    if (!is_plain_backward(grad_loss, target_)) {
      return multiplied(gradient.unpack(), grad_loss, target_, options);
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    Tensor formed = is_taken ? form_gradient() : take(gradient);
    is_taken = true;
    return scaled(std::move(formed), grad_loss, target_, options);
  }

  // Once more, in the same way and with the same roundings.
  Tensor form_gradient() {
    const CrossEntropyResults results = entries().cross_entropy(
        to_handle(input.unpack()), to_handle(target.unpack()), to_handle(weight.unpack()), options,
        CrossEntropyKeeps::gradient, false, false);
    from_handle(results.loss);
    return from_handle(results.grad_input);
  }

  Tensor of_input(const Tensor& grad_loss, const Tensor& grad_lse, const Tensor& input_,
                  const Tensor& target_, const Tensor& weight_, Tensor statistics_) {
    Tensor total_weight_ = unpack_doubles(total_weight);
    if (!statistics_.defined()) {
      const at::NoGradGuard no_grad;
      std::tie(std::ignore, statistics_, total_weight_, std::ignore) = forward_operator().call(
          input_, target_, optional(weight_), options.reduction, options.ignore_index,
          options.label_smoothing, options.lse_square_scale, false);
    }
    if (!is_plain_backward(grad_loss, grad_lse, input_, target_, weight_)) {
      return call_backward(grad_loss.to(compute_dtype(input_)), grad_lse, input_, target_, weight_,
                           statistics_, total_weight_, options);
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
    const Tensor grad_loss_ = grad_loss.unpack(), grad_lse_ = grad_lse.unpack();
    const Tensor input_ = input.unpack(), target_ = target.unpack(), weight_ = weight.unpack();
    if (is_plain_backward(grads[0], grad_loss_, grad_lse_, input_, target_, weight_) &&
        input_.is_cpu() && input_.numel() > 0 && !needs_gradient(3) && !needs_gradient(4)) {
      const auto found = entries().cross_entropy_second_gradients(
          to_handle(grads[0]), to_handle(grad_loss_), to_handle(grad_lse_), to_handle(input_),
          to_handle(target_), to_handle(weight_), options);
      return {from_handle(found[0]), from_handle(found[1]), from_handle(found[2]), {}, {}};
    }
    return call_formula(kFormulas, "second_gradients",
                        {grads[0], grad_loss_, grad_lse_, input_, target_, weight_},
                        as_tuple(options));
  }
};

}  // namespace

void attach_cross_entropy(const Tensor& loss, const Tensor& lse, const Tensor& input,
                          const Tensor& target, const Tensor& weight, const Options& options,
                          const CrossEntropyKept& kept) {
  if (!compute_requires_grad(input, target, weight)) {
    return;
  }
  const auto node = c10::make_intrusive<CrossEntropyBackward>();
  node->set_next_edges(collect_next_edges(input, target, weight));
  // Torch saves none of the logits, and so takes those that cannot be saved.
  const bool cannot_be_saved = input.is_inference() && !c10::InferenceMode::is_enabled();
  node->input = SavedVariable(cannot_be_saved ? input.clone() : input, false);
  node->target = SavedVariable(target, false);
  node->weight = SavedVariable(weight, false);
  node->statistics = SavedVariable(kept.statistics, false);
  node->total_weight = SavedVariable(kept.total_weight, false);
  node->gradient = SavedVariable(kept.gradient, false);
  node->has_gradient = kept.gradient.defined();
  node->in_place = kept.in_place;
  node->options = options;
  set_history({loss, lse}, node);
}

namespace {

void set_tangents(const Tensor& loss, const Tensor& lse, const Tensor& input, const Tensor& target,
                  const Tensor& weight, const Options& options) {
  if (any_has_tangent(input, target, weight)) {
    const variable_list tangents =
        call_formula(kFormulas, "tangents",
                     {primal_of(input), primal_of(target), primal_of(weight), tangent_of(input),
                      tangent_of(target), tangent_of(weight)},
                     as_tuple(options));
    set_tangent(loss, tangents[0]);
    set_tangent(lse, lse.defined() ? tangents[1] : Tensor());
  }
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
  attach_cross_entropy(loss, return_lse ? lse : Tensor(), input, target, weight, options,
                       {statistics, total_weight, Tensor()});
  set_tangents(loss, return_lse ? lse : Tensor(), input, target, weight, options);
  return result;
}

std::tuple<Tensor, Tensor> cross_entropy_forward_with_gradient_autograd(
    c10::DispatchKeySet keys, const Tensor& input, const Tensor& target,
    const OptionalTensor& optional_weight, int64_t reduction, int64_t ignore_index,
    double label_smoothing, double lse_square_scale) {
  const Options options{reduction, ignore_index, label_smoothing, lse_square_scale};
  const Tensor weight = or_undefined(optional_weight);
  auto result = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward_with_gradient_operator().redispatch(
        keys & c10::after_autograd_keyset, input, target, optional_weight, reduction, ignore_index,
        label_smoothing, lse_square_scale);
  }();
  const auto& [loss, gradient] = result;
  attach_cross_entropy(loss, Tensor(), input, target, weight, options,
                       {Tensor(), Tensor(), gradient});
  set_tangents(loss, Tensor(), input, target, weight, options);
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
  if (any_has_tangent(grad_loss, grad_lse, input, target, weight)) {
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

}  // namespace
}  // namespace makemore_ext

TORCH_LIBRARY_IMPL(makemore_ext, Autograd, library) {
  library.impl("cross_entropy_forward", &makemore_ext::cross_entropy_forward_autograd);
  library.impl("cross_entropy_forward_with_gradient",
               &makemore_ext::cross_entropy_forward_with_gradient_autograd);
  library.impl("cross_entropy_backward", &makemore_ext::cross_entropy_backward_autograd);
}
