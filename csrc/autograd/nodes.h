// What the nodes of every operation share.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>
#include <torch/csrc/autograd/saved_variable.h>
#include <torch/csrc/dynamo/compiled_autograd.h>

#include <optional>
#include <string>
#include <tuple>
#include <type_traits>
#include <utility>
#include <vector>

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
      if constexpr (is_saved<decltype(member)>) {
        member.reset_data();
      }
    });
  }

  // ---- for compiled autograd, which keeps a call of the node in its graph ----

  void compiled_args(torch::dynamo::autograd::CompiledNodeArgs& arguments) const override {
    for_each_member(static_cast<const Derived&>(*this), [&](const auto& member) {
      if constexpr (is_saved<decltype(member)>) {
        const bool is_output = std::is_same_v<decltype(member), const SavedOutput&>;
        arguments.collect(member, is_output);
      } else {
        arguments.collect(member);
      }
    });
  }

  variable_list apply_with_saved(const variable_list& grads,
                                 torch::dynamo::autograd::SwapSavedVariables& saved) override {
    using namespace torch::dynamo::autograd;
    for_each_member(derived(), [&](auto& member) { saved.before(member); });
    PackedArgs packed;
    std::vector<bool> needs_gradient;
    for (std::size_t i = 0; i < this->num_outputs(); ++i) {
      needs_gradient.push_back(this->task_should_compute_output(i));
    }
    packed.pack(needs_gradient);
    for_each_member(derived(), [&](auto& member) {
      if constexpr (is_saved<decltype(member)>) {
        packed.pack(member.unpack());
      } else {
        packed.pack(member);
      }
    });
    const std::vector<at::IValue> arguments = std::move(packed).vec();
    std::vector<at::TypePtr> types;
    for (const at::IValue& argument : arguments) {
      types.push_back(argument.isTensor() ? at::TensorType::get() : argument.type());
    }
    const auto& compiler = getPyCompilerInterface();
    const std::string function =
        compiler->bind_function(saved.get_py_compiler(), this->name(), apply_packed, types,
                                /*is_custom_function=*/true);
    variable_list result = compiler->call_function(
        saved.get_py_compiler(), "apply_functional", function, grads, arguments,
        IValuePacker<std::vector<std::optional<torch::autograd::InputMetadata>>>::pack(
            get_input_metadata(this->next_edges())));
    for_each_member(derived(), [&](auto& member) { saved.after(member); });
    return result;
  }

 protected:
  // Of the inputs of forward, in their order.
  bool needs_gradient(std::size_t input) const {
    return needs_gradient_.empty() ? this->task_should_compute_output(input)
                                   : needs_gradient_[input];
  }

  // Of a SavedOutput.
  Tensor unpack_output(const SavedOutput& output) {
    return output.unpack(c10::intrusive_ptr<Node>::unsafe_reclaim_from_nonowning(this));
  }

 private:
  template <typename Member>
  static constexpr bool is_saved = std::is_base_of_v<SavedVariable, std::decay_t<Member>>;

  Derived& derived() { return static_cast<Derived&>(*this); }

  template <typename Self, typename Body>
  static void for_each_member(Self& self, const Body& body) {
    std::apply([&](auto&... member) { (body(member), ...); }, Derived::members(self));
  }

  // What a node with these members does.
  static variable_list apply_packed(const variable_list& grads,
                                    const std::vector<at::IValue>& arguments) {
    torch::dynamo::autograd::PackedArgs packed(arguments);
    const auto node = c10::make_intrusive<Derived>();
    node->needs_gradient_ = packed.unpack<std::vector<bool>>();
    for_each_member(*node, [&](auto& member) {
      using Member = std::decay_t<decltype(member)>;
      if constexpr (is_saved<Member>) {
        member = Member(packed.unpack<Tensor>(), false);
      } else {
        member = packed.unpack<Member>();
      }
    });
    return node->apply(variable_list(grads));
  }

  std::vector<bool> needs_gradient_;  // where no task of the engine says so
};

// An operator of csrc/ops.cpp, called with arguments of these types.
template <typename Signature>
auto find_operator(const char* name) {
  return c10::Dispatcher::singleton().findSchemaOrThrow(name, "").template typed<Signature>();
}

// Undefined tensors as operators take them.
inline OptionalTensor optional(const Tensor& tensor) {
  return tensor.defined() ? OptionalTensor(tensor) : std::nullopt;
}

inline Tensor or_undefined(const OptionalTensor& tensor) {
  return tensor.value_or(Tensor());
}

// What was saved in double, which hooks may have kept in less.
inline Tensor unpack_doubles(const SavedVariable& saved) {
  const Tensor tensor = saved.unpack();
  return tensor.defined() ? tensor.to(at::kDouble) : tensor;
}

// A tensor without its forward-mode tangent, and the tangent.
inline Tensor primal_of(const Tensor& tensor) {
  return has_tangent(tensor) ? tensor._fw_primal(0) : tensor;
}

inline Tensor tangent_of(const Tensor& tensor) {
  return has_tangent(tensor) ? tensor._fw_grad(0) : Tensor();
}

template <typename... Tensors>
bool any_has_tangent(const Tensors&... tensors) {
  return (has_tangent(tensors) || ...);
}

inline void set_tangent(const Tensor& output, const Tensor& tangent) {
  if (tangent.defined()) {
    output._set_fw_grad(tangent, 0, /*is_inplace_op=*/false);
  }
}

}  // namespace makemore_ext
