// Element by element, what the kernels do in registers: lets the tests verify csrc/cpu/simd/vec.h
// and elementary.h.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>

#include "../cpu/simd/elementary_kernels.h"
#include "tensors.h"

namespace makemore_ext {
namespace {

template <typename Select>
Tensor elementwise(const Tensor& input, const Select& select) {
  const Tensor source = torch::stable::contiguous(input);
  Tensor result = torch::stable::empty_like(source);
  with_wide_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    const auto function = select(cpu::kernels<cpu::ElementaryKernels<T>>());
    function(const_data<T>(source), mutable_data<T>(result), source.numel());
  });
  return result;
}

Tensor exp(const Tensor& input) {
  return elementwise(input, [](const auto& kernels) { return &kernels.exp; });
}

Tensor exp_nonpositive(const Tensor& input) {
  return elementwise(input, [](const auto& kernels) { return &kernels.exp_nonpositive; });
}

Tensor log(const Tensor& input) {
  return elementwise(input, [](const auto& kernels) { return &kernels.log; });
}

Tensor tanh(const Tensor& input) {
  return elementwise(input, [](const auto& kernels) { return &kernels.tanh; });
}

// float16 or bfloat16 to float32.
Tensor widen(const Tensor& input) {
  const Tensor source = torch::stable::contiguous(input);
  Tensor result = torch::stable::new_empty(source, source.sizes(), ScalarType::Float);
  with_narrow_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<cpu::ConversionKernels<T>>().widen(const_data<T>(source),
                                                    mutable_data<float>(result), source.numel());
  });
  return result;
}

// float32 to the dtype of `like`, float16 or bfloat16.
Tensor narrow(const Tensor& input, const Tensor& like) {
  check_dtype(input, ScalarType::Float, "input");
  const Tensor source = torch::stable::contiguous(input);
  Tensor result = torch::stable::new_empty(source, source.sizes(), like.scalar_type());
  with_narrow_type(like.scalar_type(), "like", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<cpu::ConversionKernels<T>>().narrow(const_data<float>(source),
                                                     mutable_data<T>(result), source.numel());
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(makemore_ext, CPU, library) {
  library.impl("_exp", TORCH_BOX(&exp));
  library.impl("_exp_nonpositive", TORCH_BOX(&exp_nonpositive));
  library.impl("_log", TORCH_BOX(&log));
  library.impl("_tanh", TORCH_BOX(&tanh));
  library.impl("_widen", TORCH_BOX(&widen));
  library.impl("_narrow", TORCH_BOX(&narrow));
}

}  // namespace makemore_ext
