// What the nodes of every operation share.
#pragma once

#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <algorithm>
#include <initializer_list>
#include <optional>
#include <tuple>
#include <type_traits>

#include "plain.h"

namespace makemore_ext {

using at::Tensor;
using OptionalTensor = std::optional<Tensor>;
using torch::autograd::collect_next_edges;
using torch::autograd::compute_requires_grad;
using torch::autograd::Node;
using torch::autograd::SavedVariable;
using torch::autograd::set_history;
using torch::autograd::variable_list;

// A result of the node that saves it.
struct SavedOutput : SavedVariable {
  using SavedVariable::SavedVariable;
};

// A node with what it saves and is told, which `Derived::members(node)` ties, this node or const.
template <typename Derived>
class NodeOf : public Node {
 public:
  void release_variables() override {
    for_each_member(derived(), [](auto& member) {
      if constexpr (std::is_base_of_v<SavedVariable, std::decay_t<decltype(member)>>) {
        member.reset_data();
      }
    });
  }

  // For compiled autograd, the next two: it sees every member, and puts tracers in their places.
  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& arguments) const override {
    for_each_member(static_cast<const Derived&>(*this), [&](const auto& member) {
      using Member = std::decay_t<decltype(member)>;
      if constexpr (std::is_base_of_v<SavedVariable, Member>) {
        arguments.collect(member, std::is_same_v<Member, SavedOutput>);
      } else {
        arguments.collect(member);
      }
    });
  }
  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    for_each_member(derived(), [&](auto& member) { saved.before(member); });
    variable_list result = this->apply(variable_list(grads));
    for_each_member(derived(), [&](auto& member) { saved.after(member); });
    return result;
  }

 protected:
  // Of a SavedOutput.
  Tensor unpack_output(const SavedOutput& output) {
    return output.unpack(c10::intrusive_ptr<Node>::unsafe_reclaim_from_nonowning(this));
  }

 private:
  Derived& derived() { return static_cast<Derived&>(*this); }

  template <typename Self, typename Body>
  static void for_each_member(Self& self, const Body& body) {
    std::apply([&](auto&... member) { (body(member), ...); }, Derived::members(self));
  }
};

// Undefined tensors as operators take them.
inline OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

inline Tensor or_undefined(const OptionalTensor& tensor) {
  return tensor.value_or(Tensor());
}

// A tensor without its forward-mode tangent, and the tangent.
inline Tensor primal_of(const Tensor& tensor) {
  return has_tangent(tensor) ? tensor._fw_primal(0) : tensor;
}

inline Tensor tangent_of(const Tensor& tensor) {
  return has_tangent(tensor) ? tensor._fw_grad(0) : Tensor();
}

inline bool any_has_tangent(std::initializer_list<Tensor> tensors) {
  return std::any_of(tensors.begin(), tensors.end(), has_tangent);
}

inline void set_tangent(const Tensor& output, const Tensor& tangent) {
  if (tangent.defined()) {
    output._set_fw_grad(tangent, 0, /*is_inplace_op=*/false);
  }
}

}  // namespace makemore_ext
