#include "cuda/cross_entropy.cu"
#include "launchers.h"

using namespace makemore_ext;
using cuda::Stream;

extern "C" int workspace(const RowShape* shape) {
  return static_cast<int>(cuda::cross_entropy_workspace(*shape));
}

extern "C" int forward(int dtype, const void* arguments, void* loss, double* statistics,
                       double* total_weight, const void* gradient, double* workspace,
                       Stream stream) {
  return guarded([&] {
#define CALL(T)                                                                                   \
  if (dtype == kNumber<T>) {                                                                      \
    cuda::cross_entropy_forward<T>(*static_cast<const CrossEntropyArguments<T>*>(arguments),      \
                                   static_cast<Compute<T>*>(loss), statistics, total_weight,      \
                                   *static_cast<const RowView<T>*>(gradient), workspace, stream); \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}

extern "C" int backward(int dtype, const void* arguments, const void* grad_output,
                        int64_t grad_output_stride, const void* grad_lse, const double* statistics,
                        const double* total_weight, const void* gradient, Stream stream) {
  return guarded([&] {
#define CALL(T)                                                                  \
  if (dtype == kNumber<T>) {                                                     \
    cuda::cross_entropy_backward<T>(                                             \
        *static_cast<const CrossEntropyArguments<T>*>(arguments),                \
        {static_cast<const Compute<T>*>(grad_output), grad_output_stride},       \
        {static_cast<const Compute<T>*>(grad_lse), 1}, statistics, total_weight, \
        *static_cast<const RowView<T>*>(gradient), stream);                      \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}

extern "C" int scale(int dtype, void* gradient, int64_t count, const void* factor, Stream stream) {
  return guarded([&] {
#define CALL(T)                                                                   \
  if (dtype == kNumber<T>) {                                                      \
    cuda::cross_entropy_scale<T>(static_cast<T*>(gradient), count,                \
                                 static_cast<const Compute<T>*>(factor), stream); \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}
