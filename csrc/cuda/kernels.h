// The CUDA kernels as the rest of the extension sees them: functions that launch them on a stream.
// The twin of what kernels.h says in each folder of csrc/cpu. Every pointer leads to memory of the
// device that is current; none of the functions waits, copies to the host or allocates. Each throws
// std::runtime_error, naming the kernel, where a launch fails.
#pragma once

#include <cstdint>

#include "../arguments.h"

// Calls define(T) for every dtype that the kernels are built for.
#ifndef MAKEMORE_EXT_CUDA_DTYPES
#define MAKEMORE_EXT_CUDA_DTYPES(define) define(Half) define(BFloat16) define(float) define(double)
#endif

namespace makemore_ext::cuda {

using Stream = void*;  // cudaStream_t

// The doubles of workspace that cross_entropy_forward needs.
int64_t cross_entropy_workspace(const RowShape& shape);

// As on the CPU, but for this: a row with a target outside [0, classes) that is not ignore_index
// has loss and gradient NaN, and no part in what the mean divides by.
template <typename T>
void cross_entropy_forward(const CrossEntropyArguments<T>& arguments, Compute<T>* loss,
                           double* statistics, double* total_weight, RowView<T> gradient,
                           double* workspace, Stream stream);
template <typename T>
void cross_entropy_backward(const CrossEntropyArguments<T>& arguments,
                            Vector<const Compute<T>> grad_output, Vector<const Compute<T>> grad_lse,
                            const double* statistics, const double* total_weight,
                            RowView<T> gradient, Stream stream);

// gradient *= *factor, but of infinity or NaN nothing to the rows whose target is ignore_index. The
// elements are side by side, whatever their order; without targets no row is ignored.
template <typename T>
void cross_entropy_scale(const RowShape& shape, const RowView<T>& gradient, const Indices& target,
                         int64_t ignore_index, const Compute<T>* factor, Stream stream);

// The values of workspace that embedding_backward needs.
int64_t embedding_workspace(int64_t tokens, int64_t features);

// grad_weight, contiguous, as on the CPU. indices: sorted, [tokens]; order: for each of them the
// row of grad_output it stands for, ascending where indices are equal. An index outside [0,
// vocabulary) is passed over.
template <typename T>
void embedding_backward(Matrix<const T> grad_output, const int64_t* indices, const int64_t* order,
                        Matrix<T> grad_weight, Compute<T>* workspace, Stream stream);

enum class FloatingType : int64_t { half, bfloat16, single, wide };

template <typename T>
inline constexpr FloatingType kFloatingType = FloatingType::wide;
template <>
inline constexpr FloatingType kFloatingType<Half> = FloatingType::half;
template <>
inline constexpr FloatingType kFloatingType<BFloat16> = FloatingType::bfloat16;
template <>
inline constexpr FloatingType kFloatingType<float> = FloatingType::single;

// A vector of any of them.
struct FloatingVector {
  void* data;  // null where there is none
  int64_t stride;
  FloatingType type;
};

struct RunningStatistics {
  FloatingVector mean;
  FloatingVector variance;
  double momentum;
};

// The doubles of workspace that batch_norm_forward and batch_norm_backward need.
template <typename T>
int64_t batch_norm_workspace(const ChannelShape& shape);

// As on the CPU, but that the running statistics are the kernels' work: training updates them, if
// there are any, evaluation reads them into `statistics`. Without elements the statistics, the
// gradients of weight and bias and the sums are zeros.
template <typename T>
void batch_norm_forward(const BatchNormArguments<T>& arguments, const RunningStatistics& running,
                        double* statistics, ChannelView<T> output, double* workspace,
                        Stream stream);
template <typename T>
void batch_norm_backward(const BatchNormArguments<T>& arguments, const double* statistics,
                         const BatchNormGradients<T>& gradients, double* workspace, Stream stream);

}  // namespace makemore_ext::cuda
