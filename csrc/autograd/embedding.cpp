// The derivatives of the embedding. The look-up is linear in weight and its backward linear in
// grad_output, each the transpose of the other but for the row at padding_idx, which gets no
// gradient.
#include <torch/library.h>

#include "derivatives.h"
#include "handles.h"
#include "plain.h"

namespace makemore_ext {
namespace {

using c10::SymInt;

const auto& forward_operator() {
  static const auto found =
      find_operator<Tensor(const Tensor&, const Tensor&, SymInt)>("makemore_ext::embedding");
  return found;
}

const auto& backward_operator() {
  static const auto found = find_operator<Tensor(const Tensor&, const Tensor&, SymInt, SymInt)>(
      "makemore_ext::embedding_backward");
  return found;
}

// The transpose of embedding_backward: grad [V, D] looked up, and 0 where that passed nothing on.
Tensor transposed(const Tensor& grad, const Tensor& input, const SymInt& padding_idx) {
  const Tensor rows = forward_operator().call(input, grad, -1);
  const int64_t padding = padding_idx.guard_int(__FILE__, __LINE__);
  return padding < 0 ? rows : rows.masked_fill(input.eq(padding).unsqueeze(-1), 0);
}

// What either direction saves: the indices, and what the operators are told beside them.
template <typename Derived>
struct EmbeddingNode : NodeOf<Derived> {
  SavedVariable input;
  SymInt num_embeddings, padding_idx;

  template <typename Self>
  static auto members(Self& self) {
    return std::tie(self.input, self.num_embeddings, self.padding_idx);
  }
};

struct EmbeddingBackward : EmbeddingNode<EmbeddingBackward> {
  std::string name() const override { return "EmbeddingBackward"; }

  variable_list apply(variable_list&& grads) override {
    if (!grads[0].defined()) {
      return {Tensor()};
    }
    const Tensor indices = input.unpack();
    if (!is_plain_backward(grads[0], indices)) {
      return {backward_operator().call(grads[0], indices, num_embeddings, padding_idx)};
    }
    const at::AutoDispatchBelowADInplaceOrView guard;
    return {from_handle(entries().embedding_backward(to_handle(grads[0]), to_handle(indices),
                                                     num_embeddings.expect_int(),
                                                     padding_idx.expect_int()))};
  }
};

struct EmbeddingBackwardBackward : EmbeddingNode<EmbeddingBackwardBackward> {
  std::string name() const override { return "EmbeddingBackwardBackward"; }

  variable_list apply(variable_list&& grads) override {
    return {grads[0].defined() ? transposed(grads[0], input.unpack(), padding_idx) : Tensor()};
  }
};

}  // namespace

void attach_embedding(const Tensor& output, const Tensor& input, const Tensor& weight,
                      const SymInt& padding_idx) {
  if (!compute_requires_grad(weight)) {
    return;
  }
  const auto node = c10::make_intrusive<EmbeddingBackward>();
  node->set_next_edges(collect_next_edges(weight));
  node->input = SavedVariable(input, false);
  node->num_embeddings = weight.sym_size(0);
  node->padding_idx = padding_idx;
  set_history(output, node);
}

namespace {

Tensor embedding_autograd(c10::DispatchKeySet keys, const Tensor& input, const Tensor& weight,
                          SymInt padding_idx) {
  const Tensor output = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward_operator().redispatch(keys & c10::after_autograd_keyset, input, weight,
                                         padding_idx);
  }();
  attach_embedding(output, input, weight, padding_idx);
  if (any_has_tangent(weight)) {
    set_tangent(output, forward_operator().call(input, tangent_of(weight), padding_idx));
  }
  return output;
}

Tensor embedding_backward_autograd(c10::DispatchKeySet keys, const Tensor& grad_output,
                                   const Tensor& input, SymInt num_embeddings, SymInt padding_idx) {
  const Tensor grad_weight = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return backward_operator().redispatch(keys & c10::after_autograd_keyset, grad_output, input,
                                          num_embeddings, padding_idx);
  }();
  if (compute_requires_grad(grad_output)) {
    const auto node = c10::make_intrusive<EmbeddingBackwardBackward>();
    node->set_next_edges(collect_next_edges(grad_output));
    node->input = SavedVariable(input, false);
    node->num_embeddings = num_embeddings;
    node->padding_idx = padding_idx;
    set_history(grad_weight, node);
  }
  if (any_has_tangent(grad_output)) {
    set_tangent(grad_weight, backward_operator().call(tangent_of(grad_output), input,
                                                      num_embeddings, padding_idx));
  }
  return grad_weight;
}

}  // namespace
}  // namespace makemore_ext

TORCH_LIBRARY_IMPL(makemore_ext, Autograd, library) {
  library.impl("embedding", &makemore_ext::embedding_autograd);
  library.impl("embedding_backward", &makemore_ext::embedding_backward_autograd);
}
