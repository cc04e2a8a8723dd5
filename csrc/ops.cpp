// Every operator of the extension: its schema, its checks, and the call into the kernels.
//
// The checks here keep a kernel from reading what it must not, whoever calls the operator. What a
// Python user should read when something is wrong is raised in makemore_ext/<operation>.py.
#include <torch/csrc/stable/library.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>
#include <torch/headeronly/core/ScalarType.h>

#include <algorithm>
#include <array>
#include <initializer_list>
#include <optional>
#include <tuple>

#include "cpu/kernels.h"
#include "cpu/parallel.h"

namespace makemore_ext {

namespace cpu {

void parallel_for(int64_t count, RangeFunction function, const void* context) {
  torch::stable::parallel_for(0, count, 1,
                              [&](int64_t begin, int64_t end) { function(begin, end, context); });
}

}  // namespace cpu

namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;
using OptionalTensor = std::optional<Tensor>;

constexpr std::size_t kMostDimensions = 2;

// Calls function with a value of the C++ type that `dtype` stands for.
template <typename Function>
auto with_floating_type(ScalarType dtype, const char* name, const Function& function) {
  switch (dtype) {
    case ScalarType::Float:
      return function(float{});
    case ScalarType::Double:
      return function(double{});
    default:
      STD_TORCH_CHECK(false, name, " must be float32 or float64");
  }
}

void check_dim(const Tensor& tensor, int64_t dim, const char* name) {
  STD_TORCH_CHECK(tensor.dim() == dim, name, " must have ", dim, " dimensions, got ", tensor.dim());
}

void check_dtype(const Tensor& tensor, ScalarType dtype, const char* name) {
  STD_TORCH_CHECK(tensor.scalar_type() == dtype, name, " has the wrong dtype");
}

void check_size(const Tensor& tensor, int64_t dim, int64_t size, const char* name) {
  STD_TORCH_CHECK(tensor.size(dim) == size, name, " must have size ", size, " in dimension ", dim,
                  ", got ", tensor.size(dim));
}

void check_vector(const Tensor& tensor, int64_t size, ScalarType dtype, const char* name) {
  check_dim(tensor, 1, name);
  check_size(tensor, 0, size, name);
  check_dtype(tensor, dtype, name);
}

void check_like(const Tensor& tensor, const Tensor& other, const char* name) {
  check_dtype(tensor, other.scalar_type(), name);
  check_dim(tensor, other.dim(), name);
  for (int64_t dim = 0; dim < other.dim(); ++dim) {
    check_size(tensor, dim, other.size(dim), name);
  }
}

template <typename T>
cpu::Matrix<const T> const_matrix(const Tensor& tensor) {
  return {static_cast<const T*>(tensor.const_data_ptr()), tensor.size(0), tensor.size(1),
          tensor.stride(0), tensor.stride(1)};
}

template <typename T>
cpu::Matrix<T> mutable_matrix(const Tensor& tensor) {
  return {static_cast<T*>(tensor.mutable_data_ptr()), tensor.size(0), tensor.size(1),
          tensor.stride(0), tensor.stride(1)};
}

template <typename T>
const T* const_data(const OptionalTensor& tensor) {
  return tensor ? static_cast<const T*>(tensor->const_data_ptr()) : nullptr;
}

template <typename T>
T* mutable_data(const OptionalTensor& tensor) {
  return tensor ? static_cast<T*>(tensor->mutable_data_ptr()) : nullptr;
}

cpu::Vector<const int64_t> index_vector(const Tensor& tensor) {
  return {static_cast<const int64_t*>(tensor.const_data_ptr()), tensor.stride(0)};
}

double* double_data(const Tensor& tensor) {
  return static_cast<double*>(tensor.mutable_data_ptr());
}

const double* const_double_data(const Tensor& tensor) {
  return static_cast<const double*>(tensor.const_data_ptr());
}

OptionalTensor contiguous(const OptionalTensor& tensor) {
  return tensor && !tensor->is_contiguous() ? torch::stable::contiguous(*tensor) : tensor;
}

// An uninitialised contiguous tensor on the device of `like`. Straight from the allocator, since
// torch::stable::new_empty, which looks its operator up by name, costs more than a small kernel.
Tensor allocate(const Tensor& like, std::initializer_list<int64_t> size, ScalarType dtype) {
  std::array<int64_t, kMostDimensions> strides;
  int64_t stride = 1;
  for (std::size_t dim = size.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(1, size.begin()[dim]);
  }
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  AtenTensorHandle handle = nullptr;
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(
      static_cast<int64_t>(size.size()), size.begin(), strides.data(),
      torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype)), device_type,
      like.get_device_index(), &handle));
  return Tensor(handle);
}

Tensor allocate(const Tensor& like, std::initializer_list<int64_t> size) {
  return allocate(like, size, like.scalar_type());
}

// ---- cross entropy ----

template <typename T>
cpu::CrossEntropyArguments<T> cross_entropy_arguments(const Tensor& input, const Tensor& target,
                                                      const OptionalTensor& weight,
                                                      int64_t reduction, int64_t ignore_index,
                                                      double label_smoothing) {
  return {const_matrix<T>(input), index_vector(target), const_data<T>(weight),
          ignore_index,           label_smoothing,      static_cast<cpu::Reduction>(reduction)};
}

void check_cross_entropy(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                         int64_t reduction) {
  check_dim(input, 2, "input");
  check_vector(target, input.size(0), ScalarType::Long, "target");
  if (weight) {
    check_vector(*weight, input.size(1), input.scalar_type(), "weight");
  }
  STD_TORCH_CHECK(reduction >= 0 && reduction <= 2, "reduction must be 0, 1 or 2");
}

std::tuple<Tensor, Tensor, Tensor> cross_entropy_forward(const Tensor& input, const Tensor& target,
                                                         const OptionalTensor& weight,
                                                         int64_t reduction, int64_t ignore_index,
                                                         double label_smoothing) {
  check_cross_entropy(input, target, weight, reduction);
  const bool per_row = reduction == static_cast<int64_t>(cpu::Reduction::none);
  const OptionalTensor dense_weight = contiguous(weight);
  Tensor loss = per_row ? allocate(input, {input.size(0)}) : allocate(input, {});
  Tensor lse = allocate(input, {2, input.size(0)}, ScalarType::Double);
  Tensor total_weight = allocate(input, {}, ScalarType::Double);
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().cross_entropy_forward(
        cross_entropy_arguments<T>(input, target, dense_weight, reduction, ignore_index,
                                   label_smoothing),
        static_cast<T*>(loss.mutable_data_ptr()), double_data(lse), double_data(total_weight));
  });
  return {loss, lse, total_weight};
}

Tensor cross_entropy_backward(const Tensor& grad_output, const Tensor& input, const Tensor& target,
                              const OptionalTensor& weight, const Tensor& lse,
                              const Tensor& total_weight, int64_t reduction, int64_t ignore_index,
                              double label_smoothing) {
  check_cross_entropy(input, target, weight, reduction);
  const bool per_row = reduction == static_cast<int64_t>(cpu::Reduction::none);
  check_dim(grad_output, per_row ? 1 : 0, "grad_output");
  check_dtype(grad_output, input.scalar_type(), "grad_output");
  if (per_row) {
    check_size(grad_output, 0, input.size(0), "grad_output");
  }
  check_dim(lse, 2, "lse");
  check_size(lse, 0, 2, "lse");
  check_size(lse, 1, input.size(0), "lse");
  check_dtype(lse, ScalarType::Double, "lse");
  STD_TORCH_CHECK(lse.is_contiguous(), "lse must be contiguous");
  check_dim(total_weight, 0, "total_weight");
  check_dtype(total_weight, ScalarType::Double, "total_weight");

  const OptionalTensor dense_weight = contiguous(weight);
  Tensor grad_input = allocate(input, {input.size(0), input.size(1)});
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    const cpu::Vector<const T> upstream{static_cast<const T*>(grad_output.const_data_ptr()),
                                        per_row ? grad_output.stride(0) : 0};
    cpu::kernels<T>().cross_entropy_backward(
        cross_entropy_arguments<T>(input, target, dense_weight, reduction, ignore_index,
                                   label_smoothing),
        upstream, const_double_data(lse), *const_double_data(total_weight),
        mutable_matrix<T>(grad_input));
  });
  return grad_input;
}

// ---- batch norm ----

template <typename T>
cpu::BatchNormArguments<T> batch_norm_arguments(const Tensor& input, const OptionalTensor& weight,
                                                const OptionalTensor& bias, double correction,
                                                double eps, int64_t activation) {
  return {const_matrix<T>(input),
          const_data<T>(weight),
          const_data<T>(bias),
          correction,
          eps,
          static_cast<cpu::Activation>(activation)};
}

void check_batch_norm(const Tensor& input, const OptionalTensor& weight, const OptionalTensor& bias,
                      int64_t activation) {
  check_dim(input, 2, "input");
  if (weight) {
    check_vector(*weight, input.size(1), input.scalar_type(), "weight");
  }
  if (bias) {
    check_vector(*bias, input.size(1), input.scalar_type(), "bias");
  }
  STD_TORCH_CHECK(activation >= 0 && activation <= 2, "activation must be 0, 1 or 2");
}

// Copies a vector of any floating type to `destination`.
void copy_to_double(const Tensor& source, double* destination) {
  with_floating_type(source.scalar_type(), "running statistics", [&](auto zero) {
    using T = decltype(zero);
    const T* data = static_cast<const T*>(source.const_data_ptr());
    for (int64_t i = 0; i < source.size(0); ++i) {
      destination[i] = data[i * source.stride(0)];
    }
  });
}

// training: the statistics are the batch's. Otherwise running_mean and running_var are needed.
std::tuple<Tensor, Tensor> batch_norm_forward(const Tensor& input, const OptionalTensor& weight,
                                              const OptionalTensor& bias,
                                              const OptionalTensor& running_mean,
                                              const OptionalTensor& running_var, bool training,
                                              double correction, double eps, int64_t activation) {
  check_batch_norm(input, weight, bias, activation);
  const int64_t channels = input.size(1);
  Tensor output = allocate(input, {input.size(0), channels});
  Tensor statistics = allocate(input, {3, channels}, ScalarType::Double);
  if (!training) {
    STD_TORCH_CHECK(running_mean && running_var, "evaluation needs running statistics");
    for (const OptionalTensor& running : {running_mean, running_var}) {
      check_dim(*running, 1, "running statistics");
      check_size(*running, 0, channels, "running statistics");
    }
    copy_to_double(*running_mean, double_data(statistics));
    copy_to_double(*running_var, double_data(statistics) + channels);
  }
  const OptionalTensor dense_weight = contiguous(weight);
  const OptionalTensor dense_bias = contiguous(bias);
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().batch_norm_forward(
        batch_norm_arguments<T>(input, dense_weight, dense_bias, correction, eps, activation),
        training, double_data(statistics), mutable_matrix<T>(output));
  });
  return {output, statistics};
}

std::tuple<Tensor, Tensor, Tensor> batch_norm_backward(const Tensor& grad_output,
                                                       const Tensor& input,
                                                       const OptionalTensor& weight,
                                                       const OptionalTensor& output,
                                                       const Tensor& statistics, bool training,
                                                       double correction, int64_t activation) {
  check_batch_norm(input, weight, std::nullopt, activation);
  check_like(grad_output, input, "grad_output");
  check_dim(statistics, 2, "statistics");
  check_size(statistics, 0, 3, "statistics");
  check_size(statistics, 1, input.size(1), "statistics");
  check_dtype(statistics, ScalarType::Double, "statistics");
  STD_TORCH_CHECK(statistics.is_contiguous(), "statistics must be contiguous");
  STD_TORCH_CHECK(output.has_value() == (activation != 0),
                  "output must be given exactly when there is an activation");
  if (output) {
    check_like(*output, input, "output");
  }
  const OptionalTensor dense_weight = contiguous(weight);
  Tensor grad_input = allocate(input, {input.size(0), input.size(1)});
  Tensor grad_weight = allocate(input, {input.size(1)});
  Tensor grad_bias = allocate(input, {input.size(1)});
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().batch_norm_backward(
        batch_norm_arguments<T>(input, dense_weight, std::nullopt, correction, 0, activation),
        training, const_double_data(statistics), const_matrix<T>(grad_output),
        output ? const_matrix<T>(*output) : cpu::Matrix<const T>{}, mutable_matrix<T>(grad_input),
        static_cast<T*>(grad_weight.mutable_data_ptr()),
        static_cast<T*>(grad_bias.mutable_data_ptr()));
  });
  return {grad_input, grad_weight, grad_bias};
}

// ---- embedding ----

Tensor embedding_backward(const Tensor& grad_output, const Tensor& indices,
                          int64_t num_embeddings) {
  check_dim(grad_output, 2, "grad_output");
  check_vector(indices, grad_output.size(0), ScalarType::Long, "indices");
  STD_TORCH_CHECK(num_embeddings >= 0, "num_embeddings must not be negative, got ", num_embeddings);
  Tensor grad_weight = allocate(grad_output, {num_embeddings, grad_output.size(1)});
  with_floating_type(grad_output.scalar_type(), "grad_output", [&](auto zero) {
    using T = decltype(zero);
    cpu::kernels<T>().embedding_backward(const_matrix<T>(grad_output), index_vector(indices),
                                         mutable_matrix<T>(grad_weight));
  });
  return grad_weight;
}

// ---- elementary functions, for the tests of cpu/vec.h ----

template <bool tanh>
Tensor elementwise(const Tensor& input) {
  const Tensor source = torch::stable::contiguous(input);
  Tensor result = torch::stable::empty_like(source);
  with_floating_type(input.scalar_type(), "input", [&](auto zero) {
    using T = decltype(zero);
    const auto function = tanh ? cpu::kernels<T>().tanh : cpu::kernels<T>().exp;
    function(static_cast<const T*>(source.const_data_ptr()),
             static_cast<T*>(result.mutable_data_ptr()), source.numel());
  });
  return result;
}

}  // namespace

STABLE_TORCH_LIBRARY(makemore_ext, library) {
  library.def(
      "cross_entropy_forward(Tensor input, Tensor target, Tensor? weight, int reduction, "
      "int ignore_index, float label_smoothing) -> (Tensor loss, Tensor lse, Tensor total_weight)");
  library.def(
      "cross_entropy_backward(Tensor grad_output, Tensor input, Tensor target, Tensor? weight, "
      "Tensor lse, Tensor total_weight, int reduction, int ignore_index, float label_smoothing) "
      "-> Tensor");
  library.def(
      "batch_norm_forward(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, "
      "Tensor? running_var, bool training, float correction, float eps, int activation) "
      "-> (Tensor output, Tensor statistics)");
  library.def(
      "batch_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? output, "
      "Tensor statistics, bool training, float correction, int activation) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  library.def(
      "embedding_backward(Tensor grad_output, Tensor indices, int num_embeddings) -> Tensor");
  library.def("_exp(Tensor input) -> Tensor");
  library.def("_tanh(Tensor input) -> Tensor");
}

STABLE_TORCH_LIBRARY_IMPL(makemore_ext, CPU, library) {
  library.impl("cross_entropy_forward", TORCH_BOX(&cross_entropy_forward));
  library.impl("cross_entropy_backward", TORCH_BOX(&cross_entropy_backward));
  library.impl("batch_norm_forward", TORCH_BOX(&batch_norm_forward));
  library.impl("batch_norm_backward", TORCH_BOX(&batch_norm_backward));
  library.impl("embedding_backward", TORCH_BOX(&embedding_backward));
  library.impl("_exp", TORCH_BOX(&elementwise<false>));
  library.impl("_tanh", TORCH_BOX(&elementwise<true>));
}

}  // namespace makemore_ext
