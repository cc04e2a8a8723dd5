// What the Python module of csrc/autograd holds for the embedding.
#pragma once

#include <torch/csrc/python_headers.h>

namespace makemore_ext {

// embedding(input, weight, padding_idx): the look-up with its node attached, or NotImplemented
// where the call is none that it serves.
PyObject* embedding(PyObject* module, PyObject* const* arguments, Py_ssize_t count);

}  // namespace makemore_ext
