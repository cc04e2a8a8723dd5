// The Python module makemore_ext._autograd: what eager calls go through, one native call each.
// Loading it gives the operators their derivatives. It is bound to the torch that it was built
// against, and needs makemore_ext._C loaded before.
#include <torch/csrc/python_headers.h>

#include "../handles.h"
#include "calls.h"

namespace makemore_ext {
namespace {

const Entries* loaded = nullptr;

template <PyObject* function(PyObject*, PyObject* const*, Py_ssize_t)>
PyMethodDef method(const char* name) {
  return {name, reinterpret_cast<PyCFunction>(reinterpret_cast<void (*)()>(function)),
          METH_FASTCALL, nullptr};
}

PyMethodDef methods[] = {method<cross_entropy>("cross_entropy"),
                         method<batch_norm>("batch_norm"),
                         method<embedding>("embedding"),
                         {nullptr, nullptr, 0, nullptr}};
PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, "_autograd", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

}  // namespace

const Entries& entries() {
  return *loaded;
}

}  // namespace makemore_ext

PyMODINIT_FUNC PyInit__autograd() {
  using makemore_ext::loaded;
  loaded =
      static_cast<const makemore_ext::Entries*>(PyCapsule_Import("makemore_ext._C._entries", 0));
  if (loaded == nullptr) {
    return nullptr;
  }
  loaded->make_large_results_by(makemore_ext::make_large_result);
  return PyModule_Create(&makemore_ext::definition);
}
