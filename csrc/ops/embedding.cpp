// The operator of the embedding: checks, allocation, and the call into the kernel.
#include <torch/csrc/stable/library.h>

#include "tensors.h"

namespace makemore_ext {
namespace {

Tensor embedding_backward(const Tensor& grad_output, const Tensor& indices,
                          int64_t num_embeddings) {
  check_dim(grad_output, 2, "grad_output");
  check_vector(indices, grad_output.size(0), ScalarType::Long, "indices");
  STD_TORCH_CHECK(num_embeddings >= 0, "num_embeddings must not be negative, got ", num_embeddings);
  Tensor grad_weight = allocate(grad_output, {num_embeddings, grad_output.size(1)});
  with_wide_type(grad_output.scalar_type(), "grad_output", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().embedding_backward(const_matrix<T>(grad_output), index_vector(indices),
                                         mutable_matrix<T>(grad_weight));
  });
  return grad_weight;
}

}  // namespace

STABLE_TORCH_LIBRARY_IMPL(makemore_ext, CPU, library) {
  library.impl("embedding_backward", TORCH_BOX(&embedding_backward));
}

}  // namespace makemore_ext
