// The eager call of the embedding.
#include <ATen/record_function.h>
#include <torch/csrc/utils/pybind.h>

#include "../derivatives.h"
#include "../handles.h"
#include "arguments.h"
#include "calls.h"

namespace makemore_ext {
namespace {

// As torch has it: a negative one counts from the end. False where it is none of the table's.
bool read_padding(PyObject* object, int64_t num_embeddings, int64_t* padding_idx) {
  if (object == Py_None) {
    *padding_idx = -1;
    return true;
  }
  if (!read(object, padding_idx)) {
    return false;
  }
  *padding_idx += *padding_idx < 0 ? num_embeddings : 0;
  return *padding_idx >= 0 && *padding_idx < num_embeddings;
}

}  // namespace

PyObject* embedding(PyObject*, PyObject* const* arguments, Py_ssize_t count) {
  HANDLE_TH_ERRORS
  Tensor input, weight;
  int64_t padding_idx = -1;
  if (count != 3 || !is_plain_call() || !read(arguments[0], &input) ||
      !read(arguments[1], &weight) || !input.is_cpu() || !weight.is_cpu() || weight.dim() != 2 ||
      !is_supported(weight) ||
      (input.scalar_type() != at::kLong && input.scalar_type() != at::kInt) ||
      !read_padding(arguments[2], weight.size(0), &padding_idx)) {
    Py_RETURN_NOTIMPLEMENTED;
  }
  RECORD_FUNCTION("makemore_ext::embedding", c10::ArrayRef<const c10::IValue>{});
  Tensor output;
  try {
    const pybind11::gil_scoped_release no_gil;
    {
      const at::AutoDispatchBelowADInplaceOrView guard;
      output = from_handle(entries().embedding(to_handle(input), to_handle(weight), padding_idx));
    }
    attach_embedding(output, input, weight, padding_idx);
  } catch (const std::out_of_range& error) {
    PyErr_SetString(PyExc_IndexError, error.what());
    return nullptr;
  }
  return THPVariable_Wrap(std::move(output));
  END_HANDLE_TH_ERRORS
}

}  // namespace makemore_ext
