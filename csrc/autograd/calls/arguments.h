// Arguments of a Python call, read without a word of error: where one of these is false, the caller
// returns NotImplemented, and Python says what is wrong.
#pragma once

#include <torch/csrc/autograd/python_variable.h>

#include <initializer_list>
#include <utility>

#include "../plain.h"

namespace makemore_ext {

inline bool read(PyObject* object, bool* value) {
  *value = object == Py_True;
  return PyBool_Check(object);
}

inline bool read(PyObject* object, int64_t* value) {
  int overflow = 0;
  *value = PyLong_CheckExact(object) ? PyLong_AsLongLongAndOverflow(object, &overflow) : 0;
  return PyLong_CheckExact(object) && overflow == 0;
}

inline bool read(PyObject* object, double* value) {
  int64_t integer = 0;
  if (PyFloat_CheckExact(object)) {
    *value = PyFloat_AS_DOUBLE(object);
    return true;
  }
  const bool is_integer = read(object, &integer);
  *value = static_cast<double>(integer);
  return is_integer;
}

// A plain tensor.
inline bool read(PyObject* object, at::Tensor* tensor) {
  if (!is_plain(object)) {
    return false;
  }
  *tensor = THPVariable_Unpack(object);
  return true;
}

// A plain tensor or None, which leaves it undefined.
inline bool read_optional(PyObject* object, at::Tensor* tensor) {
  return object == Py_None || read(object, tensor);
}

// One of some strings, by its number.
inline bool read_choice(PyObject* object,
                        std::initializer_list<std::pair<const char*, int64_t>> choices,
                        int64_t* value) {
  if (PyUnicode_CheckExact(object)) {
    for (const auto& [name, number] : choices) {
      if (PyUnicode_CompareWithASCIIString(object, name) == 0) {
        *value = number;
        return true;
      }
    }
  }
  return false;
}

}  // namespace makemore_ext
