// What the Python module of csrc/autograd holds for batch norm.
#pragma once

#include <torch/csrc/python_headers.h>

namespace makemore_ext {

// batch_norm(input, running_mean, running_var, weight, bias, training, momentum, eps, correction,
// activation, num_batches_tracked): the output with its node attached, or NotImplemented where the
// call is none that it serves. Statistics are updated, and batches counted, in training.
PyObject* batch_norm(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace makemore_ext
