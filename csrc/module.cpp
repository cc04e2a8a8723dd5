// The Python module: what is not an operator. Loading it registers the operators of ops.cpp.
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>
#include <torch/headeronly/version.h>

#include <array>
#include <cstdint>
#include <optional>
#include <tuple>

#include "cpu/fused_mlp/kernels.h"
#include "memory/block_cache.h"
#include "ops/entries.h"

namespace makemore_ext {

namespace {

namespace py = pybind11;

// What tensor.data_ptr() gives. makemore_ext/fused_mlp/checks.py has checked what it leads to.
using Address = std::uintptr_t;
using Addresses = std::array<Address, cpu::kMLPParameters>;

template <typename T>
T* pointer(Address address) {
  return reinterpret_cast<T*>(address);
}

template <typename T>
cpu::MLPArrays<T> arrays(const Addresses& addresses) {
  cpu::MLPArrays<T> result;
  for (int parameter = 0; parameter < cpu::kMLPParameters; ++parameter) {
    result.of[parameter] = pointer<T>(addresses[parameter]);
  }
  return result;
}

// The steps of one network, see csrc/cpu/fused_mlp/fused_mlp.cpp; the memory they work on is
// Python's.
template <typename T>
class FusedMLP {
 public:
  FusedMLP(int64_t vocabulary, int64_t context, int64_t embedding, int64_t hidden)
      : sizes_{vocabulary, context, embedding, hidden} {}

  int64_t workspace_bytes(int64_t batch_size) const {
    return cpu::kernels<cpu::FusedMLPKernels<T>>().workspace(sizes_, batch_size);
  }

  T loss_and_gradients(const Addresses& parameters, Address x, Address y, Address minibatch,
                       int64_t batch_size, Address workspace, const Addresses& gradients) const {
    const auto task = make_task(parameters, x, y, minibatch, batch_size, workspace);
    return cpu::kernels<cpu::FusedMLPKernels<T>>().loss_and_gradients(task, arrays<T>(gradients));
  }

  void train(const Addresses& parameters, Address x, Address y, Address minibatches,
             int64_t batch_size, Address workspace, int64_t steps, Address lr, double momentum,
             double weight_decay, const Addresses& momentum_buffers, Address losses) const {
    const auto task = make_task(parameters, x, y, minibatches, batch_size, workspace);
    const cpu::MLPDescent<T> descent{steps, pointer<const double>(lr), momentum, weight_decay,
                                     arrays<T>(momentum_buffers)};
    cpu::kernels<cpu::FusedMLPKernels<T>>().train(task, descent, pointer<T>(losses));
  }

  static void declare(py::module_& module, const char* name) {
    using Release = py::call_guard<py::gil_scoped_release>;
    py::class_<FusedMLP>(module, name)
        .def(py::init<int64_t, int64_t, int64_t, int64_t>())
        .def("workspace_bytes", &FusedMLP::workspace_bytes)
        .def("loss_and_gradients", &FusedMLP::loss_and_gradients, Release())
        .def("train", &FusedMLP::train, Release());
  }

 private:
  const cpu::MLPSizes sizes_;

  cpu::MLPTask<T> make_task(const Addresses& parameters, Address x, Address y, Address minibatches,
                            int64_t batch_size, Address workspace) const {
    return {sizes_,
            arrays<T>(parameters),
            pointer<const int64_t>(x),
            pointer<const int64_t>(y),
            pointer<const int64_t>(minibatches),
            batch_size,
            pointer<void>(workspace)};
  }
};

}  // namespace

}  // namespace makemore_ext

PYBIND11_MODULE(_C, module) {
  // Decided here so that a capability that cannot be had is an error of the import.
  module.attr("cpu_capability") = makemore_ext::cpu::capability_name();
  module.attr("torch_version") = TORCH_VERSION;
  // The names of the architectures, with spaces between, and none without CUDA.
#ifdef MAKEMORE_EXT_CUDA
  module.attr("cuda_architectures") = MAKEMORE_EXT_CUDA;
#else
  module.attr("cuda_architectures") = "";
#endif
  using namespace makemore_ext;
  static const Entries entries{cross_entropy_entry,
                               cross_entropy_backward_entry,
                               cross_entropy_second_gradients_entry,
                               cross_entropy_scale_entry,
                               batch_norm_entry,
                               batch_norm_backward_entry,
                               embedding_entry,
                               embedding_backward_entry,
                               make_large_results_by,
                               take_block,
                               give_back_block};
  module.attr("_entries") = pybind11::capsule(&entries, "makemore_ext._C._entries");
  module.def("set_cache_limit",
             [](std::optional<std::size_t> limit) { memory::block_cache().set_limit(limit); });
  module.def("empty_cache", [] { memory::block_cache().empty(); });
  module.def("cache_info", [] {
    const memory::CacheInfo info = memory::block_cache().info();
    return std::tuple(info.in_use, info.idle, info.peak, info.limit, info.reused, info.missed);
  });
  makemore_ext::FusedMLP<float>::declare(module, "FusedMLPFloat");
  makemore_ext::FusedMLP<double>::declare(module, "FusedMLPDouble");
}
