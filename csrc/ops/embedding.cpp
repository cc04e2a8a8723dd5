// The operators of the embedding: checks, allocation, and the call into the kernels.
#include <torch/csrc/stable/library.h>

#include <algorithm>
#include <array>
#include <optional>
#include <tuple>
#include <vector>

#include "../cpu/embedding/kernels.h"
#include "entries.h"
#include "tensors.h"

namespace makemore_ext {
namespace {

[[maybe_unused]] Tensor torch_embedding(const Tensor& weight, const Tensor& indices) {
  std::array<StableIValue, 5> stack{
      torch::stable::detail::from(weight), torch::stable::detail::from(indices),
      torch::stable::detail::from(int64_t{-1}), torch::stable::detail::from(false),
      torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::embedding", "", stack.data(), TORCH_ABI_VERSION));
  return torch::stable::detail::to<Tensor>(stack[0]);
}

// The values of a vector in order, and for each the position it had; equal ones stay in theirs.
[[maybe_unused]] std::tuple<Tensor, Tensor> stable_sort(const Tensor& vector) {
  std::array<StableIValue, 4> stack{
      torch::stable::detail::from(vector), torch::stable::detail::from(std::optional<bool>(true)),
      torch::stable::detail::from(int64_t{0}), torch::stable::detail::from(false)};
  TORCH_ERROR_CODE_CHECK(
      torch_call_dispatcher("aten::sort", "stable", stack.data(), TORCH_ABI_VERSION));
  return {torch::stable::detail::to<Tensor>(stack[0]), torch::stable::detail::to<Tensor>(stack[1])};
}

// As the kernels take them: int64, side by side.
Tensor dense_indices(const Tensor& input) {
  const ScalarType dtype = input.scalar_type();
  STD_TORCH_CHECK(dtype == ScalarType::Long || dtype == ScalarType::Int,
                  "input must be int32 or int64, got ", dtype_name(dtype));
  return make_contiguous(dtype == ScalarType::Long ? input
                                                   : torch::stable::to(input, ScalarType::Long));
}

void check_padding(int64_t padding_idx, int64_t num_embeddings) {
  STD_TORCH_CHECK(padding_idx >= -1 && padding_idx < std::max<int64_t>(num_embeddings, 1),
                  "padding_idx must be in [-1, ", num_embeddings, "), got ", padding_idx);
}

// The sizes of the indices, and the features after them.
std::vector<int64_t> output_sizes(const Tensor& input, int64_t features) {
  std::vector<int64_t> sizes(input.sizes().begin(), input.sizes().end());
  sizes.push_back(features);
  return sizes;
}

// [tokens, features] of what has any number of dimensions before the features: as it is where they
// are one, or else contiguous.
template <typename T>
Matrix<const T> rows(const Tensor& tensor, int64_t tokens) {
  if (tensor.dim() == 2) {
    return const_matrix<T>(tensor);
  }
  const int64_t features = tensor.size(tensor.dim() - 1);
  return {const_data<T>(tensor), tokens, features, features, 1};
}

Tensor embedding(const Tensor& input, const Tensor& weight, int64_t padding_idx) {
  check_dim(weight, 2, "weight");
  check_device(input, weight, "input");
  check_padding(padding_idx, weight.size(0));
  const Tensor indices = dense_indices(input);
  const int64_t tokens = indices.numel();
  Tensor output;
  with_floating_type(weight.scalar_type(), "weight", [&](auto zero) {
    using T = decltype(zero);
    on_device_of(
        weight,
        [&] {
          output = allocate(weight, output_sizes(input, weight.size(1)));
          const Matrix<T> result{mutable_data<T>(output), tokens, weight.size(1), weight.size(1),
                                 1};
          cpu::kernels<cpu::EmbeddingKernels<T>>().forward(
              const_matrix<T>(weight), {const_data<int64_t>(indices), 1}, result);
        },
        [&](auto) { output = torch_embedding(weight, indices); });
  });
  return output;
}

Tensor embedding_backward(const Tensor& grad_output, const Tensor& input, int64_t num_embeddings,
                          int64_t padding_idx) {
  STD_TORCH_CHECK(grad_output.dim() == input.dim() + 1, "grad_output must have ", input.dim() + 1,
                  " dimensions, got ", grad_output.dim());
  const int64_t features = grad_output.size(input.dim());
  check_sizes(grad_output, output_sizes(input, features), "grad_output");
  check_device(input, grad_output, "input");
  STD_TORCH_CHECK(num_embeddings >= 0, "num_embeddings must not be negative, got ", num_embeddings);
  check_padding(padding_idx, num_embeddings);
  const Tensor indices = dense_indices(input);
  const Tensor dense = grad_output.dim() == 2 ? grad_output : make_contiguous(grad_output);
  const int64_t tokens = indices.numel();
  Tensor grad_weight = allocate(grad_output, {num_embeddings, features});
  with_floating_type(grad_output.scalar_type(), "grad_output", [&](auto zero) {
    using T = decltype(zero);
    on_device_of(
        grad_output,
        [&] {
          cpu::kernels<cpu::EmbeddingKernels<T>>().backward(
              rows<T>(dense, tokens), {const_data<int64_t>(indices), 1}, padding_idx,
              mutable_matrix<T>(grad_weight));
        },
        [&](auto stream) {
          Tensor sorted, order;
          std::tie(sorted, order) = stable_sort(torch::stable::flatten(indices));
          const int64_t size = cuda::embedding_workspace(tokens, features);
          const Tensor workspace = allocate(grad_output, {size}, compute_dtype(grad_output));
          cuda::embedding_backward<T>(rows<T>(dense, tokens), const_data<int64_t>(sorted),
                                      const_data<int64_t>(order), mutable_matrix<T>(grad_weight),
                                      mutable_data<Compute<T>>(workspace), stream);
          if (padding_idx >= 0) {
            Tensor row = torch::stable::select(grad_weight, 0, padding_idx);
            torch::stable::zero_(row);
          }
        });
  });
  return grad_weight;
}

void implement(Library& library) {
  library.impl("embedding", TORCH_BOX(&embedding));
  library.impl("embedding_backward", TORCH_BOX(&embedding_backward));
}

}  // namespace

Handle embedding_entry(Handle input, Handle weight, int64_t padding_idx) {
  return give_handle(embedding(Tensor(input), Tensor(weight), padding_idx));
}

Handle embedding_backward_entry(Handle grad_output, Handle input, int64_t num_embeddings,
                                int64_t padding_idx) {
  return give_handle(
      embedding_backward(Tensor(grad_output), Tensor(input), num_embeddings, padding_idx));
}

MAKEMORE_EXT_ON_EVERY_DEVICE(implement)

}  // namespace makemore_ext
