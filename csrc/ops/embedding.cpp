// The operator of the embedding: checks, allocation, and the call into the kernel.
#include <torch/csrc/stable/library.h>

#include <array>
#include <optional>
#include <tuple>

#include "../cpu/embedding/kernels.h"
#include "tensors.h"

namespace makemore_ext {
namespace {

// The values of a vector in order, and for each the position it had; equal ones stay in theirs.
[[maybe_unused]] std::tuple<Tensor, Tensor> stable_sort(const Tensor& vector) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(vector), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

Tensor embedding_backward(const Tensor& grad_output, const Tensor& indices,
                          int64_t num_embeddings) {
  check_dim(grad_output, 2, "grad_output");
  check_vector(indices, grad_output.size(0), ScalarType::Long, "indices");
  check_device(indices, grad_output, "indices");
  STD_TORCH_CHECK(num_embeddings >= 0, "num_embeddings must not be negative, got ", num_embeddings);
  Tensor grad_weight = allocate(grad_output, {num_embeddings, grad_output.size(1)});
  on_device_of(
      grad_output,
      [&] {
        with_wide_type(grad_output.scalar_type(), "grad_output", [&](auto zero) {
          using T = decltype(zero);
          cpu::kernels<cpu::EmbeddingKernels<T>>().backward(
              const_matrix<T>(grad_output), index_vector(indices), mutable_matrix<T>(grad_weight));
        });
      },
      [&](auto stream) {
        Tensor sorted, order;
        std::tie(sorted, order) = stable_sort(indices);
        const int64_t size = cuda::embedding_workspace(grad_output.size(0), grad_output.size(1));
        with_floating_type(grad_output.scalar_type(), "grad_output", [&](auto zero) {
          using T = decltype(zero);
          const Tensor workspace = allocate(grad_output, {size}, compute_dtype(grad_output));
          cuda::embedding_backward<T>(const_matrix<T>(grad_output), const_data<int64_t>(sorted),
                                      const_data<int64_t>(order), mutable_matrix<T>(grad_weight),
                                      mutable_data<Compute<T>>(workspace), stream);
        });
      });
  return grad_weight;
}

void implement(Library& library) {
  library.impl("embedding_backward", TORCH_BOX(&embedding_backward));
}

}  // namespace

MAKEMORE_EXT_ON_EVERY_DEVICE(implement)

}  // namespace makemore_ext
