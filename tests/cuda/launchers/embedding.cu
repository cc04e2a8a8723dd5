#include "cuda/embedding.cu"
#include "launchers.h"

using namespace makemore_ext;
using cuda::Stream;

extern "C" int workspace(int64_t tokens, int64_t features) {
  return static_cast<int>(cuda::embedding_workspace(tokens, features));
}

extern "C" int backward(int dtype, const void* grad_output, const int64_t* indices,
                        const int64_t* order, const void* grad_weight, void* workspace,
                        Stream stream) {
  return guarded([&] {
#define CALL(T)                                                                                    \
  if (dtype == kNumber<T>) {                                                                       \
    cuda::embedding_backward<T>(*static_cast<const Matrix<const T>*>(grad_output), indices, order, \
                                *static_cast<const Matrix<T>*>(grad_weight),                       \
                                static_cast<Compute<T>*>(workspace), stream);                      \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}
