// What the Python module of csrc/autograd holds for cross entropy.
#pragma once

#include <torch/csrc/python_headers.h>

namespace makemore_ext {

// cross_entropy(input, target, weight, ignore_index, reduction, label_smoothing, inplace_backward,
// return_lse, lse_square_scale): the loss, with lse where that is asked for, and their node
// attached, or NotImplemented where the call is none that it serves.
PyObject* cross_entropy(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace makemore_ext
