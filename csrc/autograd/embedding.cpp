// The derivatives of the embedding. The look-up is linear in weight and its backward linear in
// grad_output, each the transpose of the other but for the row at padding_idx, which gets no
// gradient.
#include "embedding.h"

#include <ATen/record_function.h>
#include <torch/library.h>

#include "handles.h"
#include "nodes.h"
#include "python_arguments.h"

namespace makemore_ext {
namespace {

using c10::SymInt;

const auto& forward_operator() {
  static const auto found = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("makemore_ext::embedding", "")
                                .typed<Tensor(const Tensor&, const Tensor&, SymInt)>();
  return found;
}

const auto& backward_operator() {
  static const auto found = c10::Dispatcher::singleton()
                                .findSchemaOrThrow("makemore_ext::embedding_backward", "")
                                .typed<Tensor(const Tensor&, const Tensor&, SymInt, SymInt)>();
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

  EmbeddingNode(const Tensor& input, SymInt num_embeddings, SymInt padding_idx)
      : input(input, false),
        num_embeddings(std::move(num_embeddings)),
        padding_idx(std::move(padding_idx)) {}

  template <typename Self>
  static auto members(Self& self) {
    return std::tie(self.input, self.num_embeddings, self.padding_idx);
  }
};

struct EmbeddingBackward : EmbeddingNode<EmbeddingBackward> {
  using EmbeddingNode::EmbeddingNode;

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
  using EmbeddingNode::EmbeddingNode;

  std::string name() const override { return "EmbeddingBackwardBackward"; }

  variable_list apply(variable_list&& grads) override {
    return {grads[0].defined() ? transposed(grads[0], input.unpack(), padding_idx) : Tensor()};
  }
};

void attach(const Tensor& output, const Tensor& input, const Tensor& weight,
            const SymInt& padding_idx) {
  if (!compute_requires_grad(weight)) {
    return;
  }
  const auto node = c10::make_intrusive<EmbeddingBackward>(input, weight.sym_size(0), padding_idx);
  node->set_next_edges(collect_next_edges(weight));
  set_history(output, node);
}

Tensor embedding_autograd(c10::DispatchKeySet keys, const Tensor& input, const Tensor& weight,
                          SymInt padding_idx) {
  const Tensor output = [&] {
    const at::AutoDispatchBelowADInplaceOrView guard;
    return forward_operator().redispatch(keys & c10::after_autograd_keyset, input, weight,
                                         padding_idx);
  }();
  attach(output, input, weight, padding_idx);
  if (any_has_tangent({weight})) {
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
    const auto node =
        c10::make_intrusive<EmbeddingBackwardBackward>(input, num_embeddings, padding_idx);
    node->set_next_edges(collect_next_edges(grad_output));
    set_history(grad_weight, node);
  }
  if (any_has_tangent({grad_output})) {
    set_tangent(grad_weight, backward_operator().call(tangent_of(grad_output), input,
                                                      num_embeddings, padding_idx));
  }
  return grad_weight;
}

// As torch has it: a negative one counts from the end. False where it is none of the table's.
bool read_padding(PyObject* object, int64_t num_embeddings, int64_t* padding_idx) {
  if (object == Py_None) {
    *padding_idx = -1;
    return true;
  }
  if (!read(object, padding_idx)) {
    return false;
  }
  *padding_idx += *padding_idx < 0 ? num_embeddings : 0;
  return *padding_idx >= 0 && *padding_idx < num_embeddings;
}

}  // namespace

PyObject* embedding(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Tensor input, weight;
  int64_t padding_idx = -1;
  if (count != 3 || !is_plain_call() || !read(arguments[0], &input) ||
      !read(arguments[1], &weight) || !input.is_cpu() || !weight.is_cpu() || weight.dim() != 2 ||
      !is_supported(weight) ||
      (input.scalar_type() != at::kLong && input.scalar_type() != at::kInt) ||
      !read_padding(arguments[2], weight.size(0), &padding_idx)) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  RECORD_FUNCTION("makemore_ext::embedding", c10::ArrayRef<const c10::IValue>{});
  Tensor output;
  try {
    const pybind11::gil_scoped_release no_gil;
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      output = from_handle(entries().embedding(to_handle(input), to_handle(weight), padding_idx));
    }
    attach(output, input, weight, padding_idx);
  } catch (const std::out_of_range& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
    return nullptr;
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

}  // namespace makemore_ext

TORCH_LIBRARY_IMPL(makemore_ext, Autograd, library) {
  library.impl("embedding", &makemore_ext::embedding_autograd);
  library.impl("embedding_backward", &makemore_ext::embedding_backward_autograd);
}
