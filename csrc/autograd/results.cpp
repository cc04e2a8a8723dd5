// Large results on the CPU, in memory that is used again. To torch they are tensors like any other:
// the storage can be resized, by torch's own allocator, and frees its block when it goes.
#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include "handles.h"

namespace makemore_ext {

namespace {

void free_block(void* block) {
  c10::profiledCPUMemoryReporter().Delete(block);
  entries().give_back_block(block);
}

}  // namespace

AtenTensorHandle make_large_result(const int64_t* sizes, const int64_t* strides, int64_t dim,
                                   int32_t dtype) {
  const at::IntArrayRef size(sizes, dim), stride(strides, dim);
  const auto type = c10::scalarTypeToTypeMeta(static_cast<at::ScalarType>(dtype));
  const std::size_t bytes = at::detail::computeStorageNbytes(size, stride, type.itemsize());
  void* const block = entries().take_block(bytes);
  if (block == nullptr) {
    return nullptr;
  }
  c10::profiledCPUMemoryReporter().New(block, bytes);
  auto storage = c10::make_intrusive<c10::StorageImpl>(
      c10::StorageImpl::use_byte_size_t(), bytes,
      c10::DataPtr(block, block, free_block, c10::Device(c10::kCPU)), c10::GetCPUAllocator(),
      /*resizable=*/true);
  at::Tensor result = at::detail::make_tensor<c10::TensorImpl>(
      std::move(storage), c10::DispatchKeySet(c10::DispatchKey::CPU), type);
  result.unsafeGetTensorImpl()->set_sizes_and_strides(size, stride);
  return torch::aot_inductor::new_tensor_handle(std::move(result));
}

}  // namespace makemore_ext
