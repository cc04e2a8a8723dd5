// What the operators share: checks of tensors, views of them for the kernels, allocation.
//
// The checks keep a kernel from reading what it must not, whoever calls the operator. What a Python
// user should read when something is wrong is raised in makemore_ext/ops/<operation>/.
#pragma once

#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>
#include <torch/headeronly/util/BFloat16.h>
#include <torch/headeronly/util/Half.h>

#include <initializer_list>
#include <optional>
#include <string>
#include <type_traits>
#include <vector>

#include "../arguments.h"
#include "../cuda/kernels.h"

namespace makemore_ext {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using Sizes = torch::headeronly::IntHeaderOnlyArrayRef;
using OptionalTensor = std::optional<Tensor>;
using Library = torch::stable::detail::StableLibrary;

// Registers operators that serve the CPU and, where the kernels are built for it, CUDA.
#ifdef MAKEMORE_EXT_CUDA
#define MAKEMORE_EXT_ON_EVERY_DEVICE(implement)            \
  STABLE_TORCH_LIBRARY_IMPL(makemore_ext, CPU, library) {  \
    implement(library);                                    \
  }                                                        \
  STABLE_TORCH_LIBRARY_IMPL(makemore_ext, CUDA, library) { \
    implement(library);                                    \
  }
#else
#define MAKEMORE_EXT_ON_EVERY_DEVICE(implement)           \
  STABLE_TORCH_LIBRARY_IMPL(makemore_ext, CPU, library) { \
    implement(library);                                   \
  }
#endif

// As torch writes them in Python.
const char* dtype_name(ScalarType dtype);
std::string device_name(const Tensor& tensor);
std::string as_list(Sizes sizes);

// Calls function with a value of the C++ type that `dtype` stands for, of the four that there are
// kernels for.
template <typename Function>
auto with_floating_type(ScalarType dtype, const char* name, const Function& function) {
  switch (dtype) {
    case ScalarType::Half:
      return function(Half{});
    case ScalarType::BFloat16:
      return function(BFloat16{});
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    default:
      STD_TORCH_CHECK(false, name, " must be float16, bfloat16, float32 or float64, got ",
                      dtype_name(dtype));
  }
}

// Calls for_cpu(), or for_cuda(stream) with the tensor's device current and its current stream.
// for_cuda takes the stream as `auto`: without CUDA it is not compiled.
template <typename ForCpu, typename ForCuda>
void on_device_of([[maybe_unused]] const Tensor& tensor, const ForCpu& for_cpu,
                  [[maybe_unused]] const ForCuda& for_cuda) {
#ifdef MAKEMORE_EXT_CUDA
  if (tensor.is_cuda()) {
    const auto device = tensor.get_device_index();
    const torch::stable::accelerator::DeviceGuard guard(device);
    const cuda::Stream stream = torch::stable::accelerator::getCurrentStream(device).nativeHandle();
    for_cuda(stream);
    return;
  }
#endif
  for_cpu();
}

// One element of a tensor.
template <typename T>
double to_double(T element) {
  if constexpr (std::is_same_v<T, Half>) {
    return static_cast<float>(
        torch::headeronly::Half(element.bits, torch::headeronly::Half::from_bits()));
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return static_cast<float>(
        torch::headeronly::BFloat16(element.bits, torch::headeronly::BFloat16::from_bits()));
  } else {
    return element;
  }
}

template <typename T>
T from_double(double value) {
  if constexpr (std::is_same_v<T, Half>) {
    return {torch::headeronly::Half(static_cast<float>(value)).x};
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    return {torch::headeronly::BFloat16(static_cast<float>(value)).x};
  } else {
    return static_cast<T>(value);
  }
}

// What elements of this dtype are computed in: float32, or float64 for float64.
inline ScalarType compute_dtype(const Tensor& tensor) {
  return tensor.scalar_type() == ScalarType::Double ? ScalarType::Double : ScalarType::Float;
}

inline void check_device(const Tensor& tensor, const Tensor& other, const char* name) {
  STD_TORCH_CHECK(
      tensor.is_cuda() == other.is_cuda() && tensor.get_device_index() == other.get_device_index(),
      name, " must be on ", device_name(other), ", got ", device_name(tensor));
}

inline void check_dim(const Tensor& tensor, int64_t dim, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == dim, name, " must have ", dim, " dimensions, got ", tensor.dim());
}

inline void check_dtype(const Tensor& tensor, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " must be ", dtype_name(dtype), ", got ",
                  dtype_name(tensor.scalar_type()));
}

inline void check_size(const Tensor& tensor, int64_t dim, int64_t size, const char* name) {
  STD_TORCH_CHECK(tensor.size(dim) == size, name, " must have size ", size, " in dimension ", dim,
                  ", got ", tensor.size(dim));
}

inline void check_sizes(const Tensor& tensor, Sizes sizes, const char* name) {
  check_dim(tensor, static_cast<int64_t>(sizes.size()), name);
  for (std::size_t dim = 0; dim < sizes.size(); ++dim) {
    check_size(tensor, static_cast<int64_t>(dim), sizes[dim], name);
  }
}

inline void check_like(const Tensor& tensor, const Tensor& other, const char* name) {
  check_dtype(tensor, other.scalar_type(), name);
  check_sizes(tensor, other.sizes(), name);
}

// Raises where two tensors share memory, of which the first is written to. Those with gaps may.
void check_separate(const Tensor& tensor, const char* name, const OptionalTensor& other,
                    const char* other_name);

// The storage of a tensor can be freed under it.
inline void check_allocated(const void* data, const Tensor& tensor) {
  STD_TORCH_CHECK(data != nullptr || tensor.numel() == 0, "a tensor of ", tensor.numel(),
                  " elements has no memory: its storage was freed");
}

template <typename T>
const T* const_data(const Tensor& tensor) {
  const void* const data = tensor.const_data_ptr();
  check_allocated(data, tensor);
  return static_cast<const T*>(data);
}

template <typename T>
T* mutable_data(const Tensor& tensor) {
  void* const data = tensor.mutable_data_ptr();
  check_allocated(data, tensor);
  return static_cast<T*>(data);
}

template <typename T>
Matrix<const T> const_matrix(const Tensor& tensor) {
  return {const_data<T>(tensor), tensor.size(0), tensor.size(1), tensor.stride(0),
          tensor.stride(1)};
}

template <typename T>
Matrix<T> mutable_matrix(const Tensor& tensor) {
  return {mutable_data<T>(tensor), tensor.size(0), tensor.size(1), tensor.stride(0),
          tensor.stride(1)};
}

template <typename T>
const T* const_data(const OptionalTensor& tensor) {
  return tensor ? const_data<T>(*tensor) : nullptr;
}

template <typename T>
T* mutable_data(const OptionalTensor& tensor) {
  return tensor ? mutable_data<T>(*tensor) : nullptr;
}

// Of the dtype that elements of `like` have or are computed in.
void check_parameter(const Tensor& vector, int64_t size, const Tensor& like, const char* name);

inline Tensor make_contiguous(const Tensor& tensor) {
  return tensor.is_contiguous() ? tensor : torch::stable::contiguous(tensor);
}

inline OptionalTensor make_contiguous(const OptionalTensor& tensor) {
  return tensor && !tensor->is_contiguous() ? torch::stable::contiguous(*tensor) : tensor;
}

// In another dtype and contiguous, or the tensor itself where it is so.
Tensor convert(const Tensor& tensor, ScalarType dtype);

inline OptionalTensor convert(const OptionalTensor& tensor, ScalarType dtype) {
  return tensor ? OptionalTensor(convert(*tensor, dtype)) : std::nullopt;
}

// Copies a tensor on the CPU, a vector of any stride or contiguous, to `destination`.
template <typename To>
void copy_values(const Tensor& tensor, To* destination) {
  with_floating_type(tensor.scalar_type(), "tensor", [&](auto zero) {
    const auto* const source = const_data<decltype(zero)>(tensor);
    const int64_t size = tensor.numel(), stride = tensor.dim() == 1 ? tensor.stride(0) : 1;
    for (int64_t i = 0; i < size; ++i) {
      destination[i] = from_double<To>(to_double(source[i * stride]));
    }
  });
}

// A vector as kernels take it, in the dtype that is computed in: where it is, or a copy, which on
// the CPU is there sooner than a tensor would be.
template <typename C>
class Converted {
 public:
  explicit Converted(const OptionalTensor& vector) {
    constexpr ScalarType kDtype =
        std::is_same_v<C, double> ? ScalarType::Double : ScalarType::Float;
    if (vector && vector->is_cpu() && vector->scalar_type() != kDtype) {
      copy_.resize(vector->size(0));
      copy_values(*vector, copy_.data());
    } else {
      tensor_ = convert(vector, kDtype);
    }
  }
  const C* data() const {
    return tensor_ ? const_data<C>(tensor_) : copy_.empty() ? nullptr : copy_.data();
  }

 private:
  OptionalTensor tensor_;
  std::vector<C> copy_;
};

// Whether the elements are not side by side in memory, in some order of the dimensions.
bool has_gap_or_overlap(const Tensor& tensor);

// Whether elements may share memory, as those of an expanded tensor do.
bool has_overlap(const Tensor& tensor);

// A handle of the tensor that is the caller's to release.
inline AtenTensorHandle give_handle(const Tensor& tensor) {
  AtenTensorHandle result = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_new_tensor_handle(tensor.get(), &result));
  return result;
}

inline AtenTensorHandle give_handle(const OptionalTensor& tensor) {
  return tensor ? give_handle(*tensor) : nullptr;
}

// The tensor of a handle that is ours, if there is one.
inline OptionalTensor take_handle(AtenTensorHandle handle) {
  return handle == nullptr ? std::nullopt : OptionalTensor(Tensor(handle));
}

// An uninitialised contiguous tensor on the device of `like`.
Tensor allocate(const Tensor& like, Sizes size, ScalarType dtype);
Tensor allocate(const Tensor& like, Sizes size);

// One of the size and dtype of `like`, with its strides where they leave no gap and no overlap,
// else in the order of its dimensions in memory: the strides of torch.empty_like.
Tensor allocate_like(const Tensor& like);

// Whether torch would give the result of an operation on images or volumes in channels last: where
// the strides are in that order, gaps or not.
bool suggests_channels_last(const Tensor& tensor);

// One of the size and dtype of `like`, channels last or contiguous.
Tensor allocate_dense(const Tensor& like, bool channels_last);

}  // namespace makemore_ext
