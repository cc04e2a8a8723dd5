// The eager call of cross entropy.
#include <ATen/autocast_mode.h>
#include <ATen/record_function.h>
#include <torch/csrc/utils/pybind.h>

#include <cstdlib>
#include <cstring>

#include "../derivatives.h"
#include "../handles.h"
#include "arguments.h"
#include "calls.h"

namespace makemore_ext {
namespace {

using Options = CrossEntropyOptions;
using Keeps = CrossEntropyKeeps;

// As the user asks: Python looks at them, and waits for the device.
bool checks_indices() {
  const char* const value = std::getenv("MAKEMORE_EXT_CHECK");
  return value != nullptr && std::strcmp(value, "1") == 0;
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
    if (input.is_cuda() && checks_indices()) {
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
    const bool in_input_dtype = !at::autocast::is_autocast_enabled(input.device().type());
    const CrossEntropyResults results =
        entries().cross_entropy(to_handle(input), to_handle(target), to_handle(weight), options,
                                keeps, return_lse, in_input_dtype);
    loss = from_handle(results.loss);
    lse = from_handle(results.lse);
    statistics = from_handle(results.statistics);
    total_weight = from_handle(results.total_weight);
    gradient = from_handle(results.grad_input);
  }
  attach_cross_entropy(loss, lse, input, target, weight, options,
                       {statistics, total_weight, gradient, inplace_backward});
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
