// Tensors to and from the handles that csrc/ops takes and gives.
#pragma once

#include <ATen/core/Tensor.h>
#include <torch/csrc/inductor/aoti_torch/utils.h>

#include "../ops/entries.h"

namespace makemore_ext {

// What makemore_ext._C gave when this module was loaded.
const Entries& entries();

// What that is given in return.
AtenTensorHandle make_large_result(const int64_t* sizes, const int64_t* strides, int64_t dim,
                                   int32_t dtype);

// Null for an undefined tensor, and back.
inline AtenTensorHandle to_handle(const at::Tensor& tensor) {
  return tensor.defined() ? torch::aot_inductor::new_tensor_handle(at::Tensor(tensor)) : nullptr;
}

inline at::Tensor from_handle(AtenTensorHandle handle) {
  if (handle == nullptr) {
    return {};
  }
  const std::unique_ptr<at::Tensor> owned(
      torch::aot_inductor::tensor_handle_to_tensor_pointer(handle));
  return std::move(*owned);
}

}  // namespace makemore_ext
