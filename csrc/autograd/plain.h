// Whether a call is as plain as can be: tensors of a device and nothing around them. Then kernels
// are called and nodes attached directly. Whatever else is at work – a transform of torch.func,
// tracing, a subclass, a mode – goes through __torch_function__ and the dispatcher, as torch's own
// functions do.
#pragma once

#include <ATen/PythonTorchFunctionTLS.h>
#include <ATen/core/Tensor.h>
#include <c10/core/impl/LocalDispatchKeySet.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/python_variable.h>

namespace makemore_ext {

inline bool is_plain_context() {
  const auto included = c10::impl::tls_local_dispatch_key_set().included_;
  return c10::default_included_set.has_all(included);
}

inline bool is_plain(const at::Tensor& tensor) {
  static const c10::DispatchKeySet allowed =
      c10::DispatchKeySet({c10::DispatchKey::CPU, c10::DispatchKey::CUDA,
                           c10::DispatchKey::AutogradCPU, c10::DispatchKey::AutogradCUDA,
                           c10::DispatchKey::ADInplaceOrView}) |
      c10::autocast_dispatch_keyset;
  return !tensor.defined() || allowed.has_all(tensor.key_set());
}

// Of forward mode.
inline bool has_tangent(const at::Tensor& tensor) {
  return tensor.defined() && tensor._fw_grad(0).defined();
}

// Of an argument from Python: neither a subclass nor one with a tangent.
inline bool is_plain(PyObject* object) {
  if (!THPVariable_CheckExact(object)) {
    return false;
  }
  const at::Tensor& tensor = THPVariable_Unpack(object);
  return is_plain(tensor) && !has_tangent(tensor);
}

inline bool is_plain_call() {
  return is_plain_context() && !at::impl::torch_function_mode_enabled();
}

// Of a node's work: whether the kernel may be called with these.
template <typename... Tensors>
bool is_plain_backward(const Tensors&... tensors) {
  return !at::GradMode::is_enabled() && is_plain_context() &&
         ((is_plain(tensors) && !has_tangent(tensors)) && ...);
}

// Whether there are kernels for its dtype and device.
inline bool is_supported(const at::Tensor& tensor) {
  const at::ScalarType dtype = tensor.scalar_type();
#ifdef MAKEMORE_EXT_CUDA
  const bool has_kernels = tensor.is_cpu() || tensor.is_cuda();
#else
  const bool has_kernels = tensor.is_cpu();
#endif
  return has_kernels && (dtype == at::kFloat || dtype == at::kDouble || dtype == at::kHalf ||
                         dtype == at::kBFloat16);
}

// What elements of this dtype are computed in: float32, or float64 for float64.
inline at::ScalarType compute_dtype(const at::Tensor& tensor) {
  return tensor.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
}

}  // namespace makemore_ext
