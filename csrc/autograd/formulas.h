// Calls of makemore_ext/ops/<operation>/formulas.py: derivatives that no operator computes, in
// torch operations. They stand there once, for these nodes and for the Functions of Python.
#pragma once

#include <torch/csrc/Exceptions.h>
#include <torch/csrc/autograd/python_variable.h>
#include <torch/csrc/utils/pybind.h>

#include "nodes.h"

namespace makemore_ext {

inline variable_list unwrap_all(const pybind11::handle& result) {
  if (THPVariable_Check(result.ptr())) {
    return {THPVariable_Unpack(result.ptr())};
  }
  variable_list tensors;
  for (const pybind11::handle item : pybind11::reinterpret_borrow<pybind11::tuple>(result)) {
    tensors.push_back(item.is_none() ? Tensor() : THPVariable_Unpack(item.ptr()));
  }
  return tensors;
}

// formulas.<function>(*tensors, options) gives a tensor or a tuple of them. An
// undefined tensor is None there.
template <typename... Options>
variable_list call_formula(const char* module, const char* function, const variable_list& tensors,
                           const std::tuple<Options...>& options) {
  const pybind11::gil_scoped_acquire gil;
  try {
    pybind11::list arguments;
    for (const Tensor& tensor : tensors) {
      arguments.append(pybind11::reinterpret_steal<pybind11::object>(THPVariable_Wrap(tensor)));
    }
    arguments.append(pybind11::cast(options));
    const pybind11::object call = pybind11::module_::import(module).attr(function);
    return unwrap_all(call(*pybind11::tuple(arguments)));
  } catch (pybind11::error_already_set& error) {
    error.restore();
    throw python_error();  // as the engine takes it to the thread that called it
  }
}

}  // namespace makemore_ext
