// The eager call of batch norm.
#include <ATen/record_function.h>
#include <torch/csrc/utils/pybind.h>

#include "../derivatives.h"
#include "../handles.h"
#include "arguments.h"
#include "calls.h"

namespace makemore_ext {
namespace {

using Options = BatchNormOptions;

// The arguments of a call from Python.
struct Call {
  Tensor input, running_mean, running_var, weight, bias, num_batches_tracked;
  double momentum = 0;
  Options options{};

  bool read_from(PyObject* const* arguments) {
    int64_t correction = 0;
    const bool are_read =
        read(arguments[0], &input) && read_optional(arguments[1], &running_mean) &&
        read_optional(arguments[2], &running_var) && read_optional(arguments[3], &weight) &&
        read_optional(arguments[4], &bias) && read(arguments[5], &options.training) &&
        read(arguments[6], &momentum) && read(arguments[7], &options.eps) &&
        read(arguments[8], &correction) &&
        (arguments[9] == Py_None ||
         read_choice(arguments[9], {{"tanh", 1}, {"relu", 2}}, &options.activation)) &&
        read_optional(arguments[10], &num_batches_tracked);
    options.correction = static_cast<double>(correction);
    return are_read;
  }

  bool is_vector(const Tensor& tensor) const {
    return !tensor.defined() || (tensor.dim() == 1 && tensor.size(0) == input.size(1) &&
                                 tensor.device() == input.device());
  }

  // Of weight, bias and running statistics: all of one dtype, the input's or float32 for a narrow
  // one.
  bool have_dtype(at::ScalarType dtype) const {
    const auto has = [&](const Tensor& tensor) {
      return !tensor.defined() || tensor.scalar_type() == dtype;
    };
    return has(running_mean) && has(running_var) && has(weight) && has(bias);
  }

  // Whether it is one of those that need no word of error.
  bool is_served() const {
    if (!is_supported(input) || input.dim() < 2 || input.size(1) == 0 || !is_vector(running_mean) ||
        !is_vector(running_var) || !is_vector(weight) || !is_vector(bias) ||
        !(have_dtype(input.scalar_type()) || have_dtype(compute_dtype(input)))) {
      return false;
    }
    const auto& [training, correction, eps, activation] = options;
    if (!(training ? eps > 0 : eps >= 0) || (correction != 0 && correction != 1) ||
        (training && input.numel() == input.size(1))) {
      return false;
    }
    return running_mean.defined() == running_var.defined() &&
           (training || running_mean.defined()) &&
           !compute_requires_grad(running_mean, running_var) &&
           (!num_batches_tracked.defined() ||
            (num_batches_tracked.is_cpu() && num_batches_tracked.scalar_type() == at::kLong &&
             num_batches_tracked.dim() == 0));
  }
};

Tensor compute(const Call& call) {
  const auto& [input, running_mean, running_var, weight, bias, num_batches_tracked, momentum,
               options] = call;
  Tensor output, statistics;
  {
    const at::AutoDispatchBelowADInplaceOrView guard;
    const auto handles = entries().batch_norm(
        to_handle(input), to_handle(weight), to_handle(bias), to_handle(running_mean),
        to_handle(running_var), momentum, options, compute_requires_grad(input, weight, bias));
    output = from_handle(handles[0]);
    statistics = from_handle(handles[1]);
  }
  attach_batch_norm(output, statistics, input, weight, bias, options);
  if (num_batches_tracked.defined()) {
    *num_batches_tracked.mutable_data_ptr<int64_t>() += 1;
    torch::autograd::impl::bump_version(num_batches_tracked);
  }
  return output;
}

}  // namespace

PyObject* batch_norm(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Call call;
  if (count != 11 || !is_plain_call() || !call.read_from(arguments) || !call.is_served()) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  RECORD_FUNCTION("makemore_ext::batch_norm_forward", c10::ArrayRef<const c10::IValue>{});
  Tensor output;
  {
    const pybind11::gil_scoped_release no_gil;
    output = compute(call);
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

}  // namespace makemore_ext
