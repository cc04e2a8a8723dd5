// Launches the kernels of batch norm.
#include <algorithm>
#include <cstdint>

#include "../kernels.h"
#include "../launch.cuh"
#include "batch_norm.cuh"

namespace makemore_ext::cuda {

namespace {

constexpr int64_t kManyWarps = 4096;  // the largest devices run some more at once

// Shorter planes would leave most of a warp without work.
constexpr int64_t kMostColumnsPerChannel = 64;

template <typename T>
bool has_columns(const ChannelShape& shape, const ChannelView<T>& view) {
  return view.data == nullptr ||
         (shape.inner <= kMostColumnsPerChannel && view.channel_stride == shape.inner);
}

template <typename... Views>
bool have_columns(const ChannelShape& shape, const Views&... views) {
  return (has_columns(shape, views) && ...);
}

// 16-byte accesses to columns need rows that are all aligned alike.
template <typename Pass>
Split split_of_columns(const Pass& pass) {
  constexpr auto is_unaligned = [](int64_t stride) {
    return stride % kLanes<typename Pass::Element> != 0;
  };
  const ChannelShape& shape = pass.arguments.shape;
  const int64_t columns = shape.channels * shape.inner;
  return shape.outer > 1 && pass.any_stride(is_unaligned) ? Split::one_by_one(columns)
                                                          : pass.split({0, 0, 0}, columns);
}

// Whole blocks, as one channel with a NaN or an infinity has its elements summed again by its block
// alone; less of them only where there are so many channels that blocks would have to wait.
template <typename Pass>
void launch_finish(const Pass& pass, cudaStream_t stream) {
  constexpr const char* kName = "batch_norm_finish";
  const int64_t channels = pass.arguments.shape.channels;
  const auto warps = std::clamp<int64_t>(kManyWarps / channels, 1, kBatchNormThreads / kWarpSize);
  const auto threads = static_cast<unsigned>(warps * kWarpSize);
  batch_norm_finish<<<grid_of(channels, kName), threads, 0, stream>>>(pass);
  check_launch(kName);
}

template <typename Pass>
void launch_columns(Pass pass, double* workspace, cudaStream_t stream) {
  using T = typename Pass::Element;
  const auto grid = ColumnGrid<T>::of(pass.arguments.shape, split_of_columns(pass));
  pass.use(grid.cut, workspace);
  if (pass.needs_sums()) {
    constexpr const char* kName = "batch_norm_sum_columns";
    batch_norm_sum_columns<<<grid_of(grid.blocks(), kName), kBatchNormThreads, 0, stream>>>(pass,
                                                                                            grid);
    check_launch(kName);
  }
  launch_finish(pass, stream);
  if (pass.needs_result()) {
    constexpr const char* kName = "batch_norm_apply_columns";
    batch_norm_apply_columns<<<grid_of(grid.blocks(), kName), kBatchNormThreads, 0, stream>>>(pass,
                                                                                              grid);
    check_launch(kName);
  }
}

template <typename Pass>
void launch_planes(Pass pass, double* workspace, cudaStream_t stream) {
  const ChannelShape& shape = pass.arguments.shape;
  const auto grid = PlaneGrid::of<typename Pass::Element>(shape);
  pass.use(grid.cut, workspace);
  if (pass.needs_sums()) {
    constexpr const char* kName = "batch_norm_sum_planes";
    batch_norm_sum_planes<<<grid_of(grid.blocks(shape.channels), kName), kBatchNormThreads, 0,
                            stream>>>(pass, grid);
    check_launch(kName);
  }
  launch_finish(pass, stream);
  if (pass.needs_result()) {
    constexpr const char* kName = "batch_norm_apply_planes";
    batch_norm_apply_planes<<<grid_of(grid.blocks(shape.channels), kName), kBatchNormThreads, 0,
                              stream>>>(pass, grid);
    check_launch(kName);
  }
}

void fill_with_zeros(void* data, int64_t bytes, cudaStream_t stream) {
  if (bytes > 0 && data != nullptr) {
    cudaMemsetAsync(data, 0, static_cast<size_t>(bytes), stream);
    check_launch("batch_norm's fill with zeros");
  }
}

}  // namespace

template <typename T>
int64_t batch_norm_workspace(const ChannelShape& shape) {
  if (shape.elements() == 0) {
    return 0;
  }
  int64_t parts = PlaneGrid::of<T>(shape).cut.parts();
  if (shape.inner <= kMostColumnsPerChannel) {
    const int64_t columns = shape.channels * shape.inner;
    const auto include = [&](const Split& split) {
      parts = std::max(parts, ColumnGrid<T>::of(shape, split).cut.parts());
    };
    include(Split::one_by_one(columns));
    for (int head = 0; head < kLanes<T>; ++head) {
      include(Split::after<T>(head, columns));
    }
  }
  return BatchNormWorkspace<T>::size(shape.channels, parts);
}

template <typename T>
void batch_norm_forward(const BatchNormArguments<T>& arguments, const RunningStatistics& running,
                        double* statistics, ChannelView<T> output, double* workspace,
                        Stream stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  const ChannelShape& shape = arguments.shape;
  if (shape.elements() == 0) {
    fill_with_zeros(statistics, 3 * shape.channels * int64_t{sizeof(double)}, stream);
    return;
  }
  const ForwardPass<T> pass(arguments, statistics, running, output);
  if (have_columns(shape, arguments.input, output)) {
    launch_columns(pass, workspace, stream);
  } else {
    launch_planes(pass, workspace, stream);
  }
}

template <typename T>
void batch_norm_backward(const BatchNormArguments<T>& arguments, const double* statistics,
                         const BatchNormGradients<T>& gradients, double* workspace,
                         Stream stream_handle) {
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  const ChannelShape& shape = arguments.shape;
  if (shape.elements() == 0) {
    const int64_t bytes = shape.channels * int64_t{sizeof(Compute<T>)};
    fill_with_zeros(gradients.grad_weight, bytes, stream);
    fill_with_zeros(gradients.grad_bias, bytes, stream);
    fill_with_zeros(gradients.sums, 2 * shape.channels * int64_t{sizeof(double)}, stream);
    return;
  }
  const BackwardPass<T> pass(arguments, statistics, gradients);
  if (have_columns(shape, arguments.input, gradients.grad_output, gradients.output,
                   gradients.grad_input)) {
    launch_columns(pass, workspace, stream);
  } else {
    launch_planes(pass, workspace, stream);
  }
}

#define MAKEMORE_EXT_DEFINE(T)                                                             \
  template int64_t batch_norm_workspace<T>(const ChannelShape&);                           \
  template void batch_norm_forward(const BatchNormArguments<T>&, const RunningStatistics&, \
                                   double*, ChannelView<T>, double*, Stream);              \
  template void batch_norm_backward(const BatchNormArguments<T>&, const double*,           \
                                    const BatchNormGradients<T>&, double*, Stream);
MAKEMORE_EXT_CUDA_DTYPES(MAKEMORE_EXT_DEFINE)
#undef MAKEMORE_EXT_DEFINE

}  // namespace makemore_ext::cuda
