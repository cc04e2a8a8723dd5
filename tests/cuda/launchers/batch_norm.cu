#include "cuda/batch_norm.cu"
#include "launchers.h"

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
