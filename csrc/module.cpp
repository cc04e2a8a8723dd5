// The Python module: what is not an operator. Loading it registers the operators of ops.cpp.
#include <pybind11/pybind11.h>
#include <torch/headeronly/version.h>

#include "cpu/kernels.h"

PYBIND11_MODULE(_C, module) {
  // Decided here so that a capability that cannot be had is an error of the import.
  module.attr("cpu_capability") = makemore_ext::cpu::capability();
  module.attr("torch_version") = TORCH_VERSION;
}
