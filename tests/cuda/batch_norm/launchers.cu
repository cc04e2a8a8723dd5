#include "../launchers/launchers.h"
#include "../launchers/workspaces.h"
#include "cuda/batch_norm/batch_norm.cu"

using namespace makemore_ext;
using cuda::Stream;

extern "C" int64_t workspace(int dtype, const ChannelShape* shape) {
  int64_t size = 0;
#define CALL(T)                                   \
  if (dtype == kNumber<T>) {                      \
    size = cuda::batch_norm_workspace<T>(*shape); \
  }
  MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  return size;
}

extern "C" int forward(int dtype, const void* arguments, const cuda::RunningStatistics* running,
                       double* statistics, const void* output, double* workspace, Stream stream) {
  return guarded([&] {
#define CALL(T)                                                                                  \
  if (dtype == kNumber<T>) {                                                                     \
    cuda::batch_norm_forward<T>(*static_cast<const BatchNormArguments<T>*>(arguments), *running, \
                                statistics, *static_cast<const ChannelView<T>*>(output),         \
                                workspace, stream);                                              \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}

extern "C" int backward(int dtype, const void* arguments, const double* statistics,
                        const void* gradients, double* workspace, Stream stream) {
  return guarded([&] {
#define CALL(T)                                                                    \
  if (dtype == kNumber<T>) {                                                       \
    cuda::batch_norm_backward<T>(                                                  \
        *static_cast<const BatchNormArguments<T>*>(arguments), statistics,         \
        *static_cast<const BatchNormGradients<T>*>(gradients), workspace, stream); \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}

namespace {

template <typename Pass>
void reach_of(const Pass& pass) {
  const int64_t channels = pass.arguments.shape.channels;
  reach(pass.workspace.first + channels * pass.cut.parts());
  reach(pass.workspace.second + channels * pass.cut.parts());
  reach(pass.workspace.of_parameter + channels * cuda::kPassParameters);
}

template <typename T>
int look(const char* kernel, const Dim3*, const Dim3*, size_t, void*, void** arguments) {
  if (std::strstr(kernel, "ForwardPass") != nullptr) {
    reach_of(*static_cast<const cuda::ForwardPass<T>*>(arguments[0]));
  } else {
    reach_of(*static_cast<const cuda::BackwardPass<T>*>(arguments[0]));
  }
  return 0;
}

// Both directions in training, all tensors alike, the gradient of the input not asked for.
template <typename T>
void call_both(const ChannelShape& shape, int64_t first, int64_t outer_stride,
               int64_t channel_stride) {
  T* const data = reinterpret_cast<T*>(4096) + first;
  const ChannelView<const T> input{data, outer_stride, channel_stride, 1};
  const BatchNormArguments<T> arguments{shape, input, nullptr, nullptr,
                                        true,  0.0,   1e-5,    Activation::none};
  double* const workspace = workspace_at_its_address<double>();
  cuda::batch_norm_forward<T>(arguments, {}, nullptr, {data, outer_stride, channel_stride, 1},
                              workspace, nullptr);
  const auto vector = reinterpret_cast<Compute<T>*>(4096);
  const BatchNormGradients<T> gradients{input, {}, nullptr, {}, vector, vector, nullptr};
  cuda::batch_norm_backward<T>(arguments, nullptr, gradients, workspace, nullptr);
}

// The bytes by which a workspace is too small for the worst alignment and layout of a shape: at
// most 0.
template <typename T>
int64_t lacking(const ChannelShape& shape) {
  constexpr int lanes = cuda::kLanes<T>;
  const int64_t columns = shape.channels * shape.inner;
  const int64_t aligned = cuda::ceil_div(columns, lanes) * lanes;
  reached = 0;
  for (int first = 0; first < lanes; ++first) {
    call_both<T>(shape, first, aligned, shape.inner);
    call_both<T>(shape, first, aligned + 1, shape.inner);
  }
  call_both<T>(shape, 0, aligned + shape.channels, shape.inner + 1);  // no columns
  return reached - cuda::batch_norm_workspace<T>(shape) * int64_t{sizeof(double)};
}

}  // namespace

extern "C" int workspaces_lack(int dtype, const ChannelShape* shapes, int64_t count,
                               int64_t* bytes) {
  return guarded([&] {
#define CALL(T)                                                \
  if (dtype == kNumber<T>) {                                   \
    look_at_launches(look<T>);                                 \
    std::transform(shapes, shapes + count, bytes, lacking<T>); \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}
