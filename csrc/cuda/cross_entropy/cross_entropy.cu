// Launches the kernels of cross entropy.
#include <algorithm>
#include <cstdint>

#include "../kernels.h"
#include "../launch.cuh"
#include "cross_entropy.cuh"

namespace makemore_ext::cuda {

namespace {

// Up to here one warp reads a row in a few steps; a block would mostly wait at its barriers.
constexpr int64_t kMostClassesPerWarp = 1024;
constexpr int64_t kManyRows = 8192;
constexpr int64_t kManyClasses = 8192;
constexpr int64_t kMostScaleBlocks = 1024;  // so that few start in vain

// Few rows a block keep every multiprocessor busy; many share the work in double among lanes.
int64_t rows_per_block(const RowShape& shape) {
  return shape.classes > kMostClassesPerWarp ? 1 : shape.rows >= kManyRows ? kBlockRows : 8;
}

int64_t row_blocks(const RowShape& shape) {
  return ceil_div(shape.rows, rows_per_block(shape));
}

int64_t column_blocks(const RowShape& shape) {
  return ceil_div(shape.rows, kBlockRows);
}

int64_t weight_blocks(const RowShape& shape) {
  return ceil_div(shape.rows, kRowsPerWeightBlock);
}

template <typename T>
bool has_contiguous_rows(const CrossEntropyTask<T>& task) {
  const auto is_contiguous = [](const auto& view) {
    return view.data == nullptr || view.class_stride == 1;
  };
  const CrossEntropyArguments<T>& arguments = task.arguments;
  return arguments.shape.classes <= 1 ||
         (is_contiguous(arguments.logits) && is_contiguous(task.gradient) &&
          (!arguments.has_probabilities || is_contiguous(arguments.probabilities)));
}

template <typename T>
CrossEntropyTask<T> make_task(const CrossEntropyArguments<T>& arguments, const RowView<T>& gradient,
                              const double* total_weight) {
  CrossEntropyTask<T> task{};
  task.arguments = arguments;
  task.on_target = 1 - arguments.label_smoothing;
  task.on_class = arguments.label_smoothing / static_cast<double>(arguments.shape.classes);
  task.gradient = gradient;
  task.total_weight = total_weight;
  return task;
}

// Returns the number of blocks.
template <typename T, bool kHasShares>
int64_t launch_rows(const CrossEntropyTask<T>& task, cudaStream_t stream) {
  const RowShape& shape = task.arguments.shape;
  if (has_contiguous_rows(task)) {
    constexpr const char* kName = "cross_entropy_rows";
    const int threads = shape.classes < kManyClasses ? 256 : kMostThreads;
    const int64_t blocks = row_blocks(shape);
    cross_entropy_rows<T, kHasShares><<<grid_of(blocks, kName), threads, 0, stream>>>(
        task, static_cast<int>(rows_per_block(shape)));
    check_launch(kName);
    return blocks;
  }
  constexpr const char* kName = "cross_entropy_columns";
  const unsigned warps = shape.classes >= kMostClassesPerWarp ? kMostWarps
                         : shape.classes >= 64                ? 8
                                                              : 4;
  const int64_t blocks = column_blocks(shape);
  cross_entropy_columns<T, kHasShares>
      <<<grid_of(blocks, kName), dim3(kBlockRows, warps), 0, stream>>>(task);
  check_launch(kName);
  return blocks;
}

template <typename T>
int64_t launch(const CrossEntropyTask<T>& task, cudaStream_t stream) {
  const CrossEntropyArguments<T>& arguments = task.arguments;
  if (arguments.shape.rows == 0) {
    return 0;
  }
  return arguments.has_probabilities || arguments.label_smoothing > 0
             ? launch_rows<T, true>(task, stream)
             : launch_rows<T, false>(task, stream);
}

template <typename Result>
void launch_sum(const double* partial, int64_t count, const double* total_weight, Result* result,
                cudaStream_t stream) {
  cross_entropy_sum<Result><<<1, kSumThreads, 0, stream>>>(partial, count, total_weight, result);
  check_launch("cross_entropy_sum");
}

// What the mean divides by; `workspace` has room for weight_blocks.
template <typename T>
void launch_weights(const CrossEntropyArguments<T>& arguments, double* workspace,
                    double* total_weight, cudaStream_t stream) {
  constexpr const char* kName = "cross_entropy_weights";
  const RowShape& shape = arguments.shape;
  const int64_t blocks = weight_blocks(shape);
  double* partial = blocks == 1 ? total_weight : workspace;
  if (blocks > 0) {
    cross_entropy_weights<Compute<T>><<<grid_of(blocks, kName), kSumThreads, 0, stream>>>(
        arguments.target, shape.rows, shape.classes, arguments.ignore_index, arguments.weight,
        partial);
    check_launch(kName);
  }
  if (blocks != 1) {
    launch_sum<double>(partial, blocks, nullptr, total_weight, stream);
  }
}

}  // namespace

int64_t cross_entropy_workspace(const RowShape& shape) {
  return weight_blocks(shape) + std::max(row_blocks(shape), column_blocks(shape));
}

template <typename T>
void cross_entropy_forward(const CrossEntropyArguments<T>& arguments, Compute<T>* loss,
                           double* statistics, double* total_weight, RowView<T> gradient,
                           double* workspace, Stream stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  launch_weights(arguments, workspace, total_weight, stream);

  CrossEntropyTask<T> task = make_task(arguments, gradient, total_weight);
  task.statistics = statistics;
  if (arguments.reduction == Reduction::none) {
    task.loss = loss;
    launch(task, stream);
    return;
  }
  task.block_loss = workspace + weight_blocks(arguments.shape);
  const int64_t blocks = launch(task, stream);
  launch_sum(task.block_loss, blocks,
             arguments.reduction == Reduction::mean ? total_weight : nullptr, loss, stream);
}

template <typename T>
void cross_entropy_backward(const CrossEntropyArguments<T>& arguments,
                            Vector<const Compute<T>> grad_output, Vector<const Compute<T>> grad_lse,
                            const double* statistics, const double* total_weight,
                            RowView<T> gradient, Stream stream) {
  CrossEntropyTask<T> task = make_task(arguments, gradient, total_weight);
  task.known_statistics = statistics;
  task.grad_output = grad_output;
  task.grad_lse = grad_lse;
  launch(task, static_cast<cudaStream_t>(stream));
}

template <typename T>
void cross_entropy_scale(const RowShape& shape, const RowView<T>& gradient, const Indices& target,
                         int64_t ignore_index, const Compute<T>* factor, Stream stream) {
  constexpr const char* kName = "cross_entropy_scale";
  const int64_t count = shape.rows * shape.classes;
  if (count > 0) {
    const int64_t blocks = std::min(ceil_div(count, kSumThreads * kLanes<T>), kMostScaleBlocks);
    cross_entropy_scale_kernel<T>
        <<<grid_of(blocks, kName), kSumThreads, 0, static_cast<cudaStream_t>(stream)>>>(
            shape, gradient, target, ignore_index, factor);
    check_launch(kName);
  }
}

#define MAKEMORE_EXT_DEFINE(T)                                                                    \
  template void cross_entropy_forward(const CrossEntropyArguments<T>&, Compute<T>*, double*,      \
                                      double*, RowView<T>, double*, Stream);                      \
  template void cross_entropy_backward(const CrossEntropyArguments<T>&, Vector<const Compute<T>>, \
                                       Vector<const Compute<T>>, const double*, const double*,    \
                                       RowView<T>, Stream);                                       \
  template void cross_entropy_scale(const RowShape&, const RowView<T>&, const Indices&, int64_t,  \
                                    const Compute<T>*, Stream);
MAKEMORE_EXT_CUDA_DTYPES(MAKEMORE_EXT_DEFINE)
#undef MAKEMORE_EXT_DEFINE

}  // namespace makemore_ext::cuda
