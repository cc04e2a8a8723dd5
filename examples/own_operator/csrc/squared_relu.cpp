// y = max(x, 0)² and its backward, dx = 2 max(x, 0) dy: schemas, checks, and kernels for the CPU.
// All against torch's stable ABI: one build runs on its torch and on later ones.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/Dispatch_v2.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// What elements are computed in: float16 and bfloat16 are rounded once, where they are written.
template <typename T>
using Compute = std::conditional_t<std::is_same_v<T, double>, double, float>;

constexpr int64_t kGrain = 32768;  // elements for which a thread is worth its start

// Calls a lambda with scalar_t, the element type of a tensor; an error for other types than these.
#define WITH_TYPE_OF(tensor, lambda)                                                          \
  THO_DISPATCH_V2((tensor).scalar_type(), "squared_relu", AT_WRAP(lambda), AT_FLOATING_TYPES, \
                  ScalarType::Half, ScalarType::BFloat16)

Tensor squared_relu(const Tensor& input) {
  const Tensor x = torch::stable::contiguous(input);
  Tensor output = torch::stable::empty_like(x);
  WITH_TYPE_OF(x, [&] {
    const auto* const from = x.const_data_ptr<scalar_t>();
    auto* const to = output.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Compute<scalar_t> value = from[i];
        to[i] = value < 0 ? 0 : value * value;  // NaN stays NaN, as in torch
      }
    });
  });
  return output;
}

Tensor squared_relu_backward(const Tensor& grad_output, const Tensor& input) {
  // What differed here would be read beyond its end.
  STD_TORCH_CHECK(grad_output.scalar_type() == input.scalar_type(),
                  "grad_output must have the dtype of input, ", toString(input.scalar_type()),
                  ", got ", toString(grad_output.scalar_type()));
  STD_TORCH_CHECK(std::ranges::equal(grad_output.sizes(), input.sizes()),
                  "grad_output must have the sizes of input, of ", input.numel(),
                  " elements in all, got ", grad_output.numel());
  const Tensor dy = torch::stable::contiguous(grad_output);  // that of a sum has stride 0
  const Tensor x = torch::stable::contiguous(input);
  Tensor grad_input = torch::stable::empty_like(x);
  WITH_TYPE_OF(x, [&] {
    const auto* const from = x.const_data_ptr<scalar_t>();
    const auto* const grad = dy.const_data_ptr<scalar_t>();
    auto* const to = grad_input.mutable_data_ptr<scalar_t>();
    torch::stable::parallel_for(0, x.numel(), kGrain, [=](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const Compute<scalar_t> value = from[i], dvalue = grad[i];
        to[i] = value <= 0 ? 0 : 2 * value * dvalue;  // 0 also where dvalue is infinite
      }
    });
  });
  return grad_input;
}

}  // namespace

STABLE_TORCH_LIBRARY(own_operator, library) {
  library.def("squared_relu(Tensor input) -> Tensor");
  library.def("squared_relu_backward(Tensor grad_output, Tensor input) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(own_operator, CPU, library) {
  library.impl("squared_relu", TORCH_BOX(&squared_relu));
  library.impl("squared_relu_backward", TORCH_BOX(&squared_relu_backward));
}
