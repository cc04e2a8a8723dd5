// What eager calls from Python go through, a function an operation: each takes its arguments as
// makemore_ext/_autograd.pyi has them, calls the kernel, and gives the result with its node
// attached. Where a call is none that it serves – an argument that is not plain or needs a
// conversion or a word of error – it returns NotImplemented, and Python goes on.
#pragma once

#include <torch/csrc/python_headers.h>

namespace makemore_ext {

PyObject* cross_entropy(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* batch_norm(PyObject* module, PyObject* const* arguments, Py_ssize_t count);
PyObject* embedding(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace makemore_ext
