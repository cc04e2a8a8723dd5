#include "../launchers/launchers.h"
#include "../launchers/workspaces.h"
#include "cuda/embedding/embedding.cu"

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

struct Sizes {
  int64_t tokens;
  int64_t features;
};

namespace {

template <typename T>
int look(const char*, const Dim3* grid, const Dim3* block, size_t, void*, void** arguments) {
  const auto& task = *static_cast<const cuda::EmbeddingTask<T>*>(arguments[0]);
  int64_t chunk = static_cast<int64_t>(grid->x) * block->y - 1;
  while (task.begin(chunk) >= task.tokens()) {
    --chunk;
  }
  reach(task.part(chunk, true) + task.grad_output.columns);
  return 0;
}

// The bytes by which a workspace is too small for a gradient [tokens, features]: at most 0.
template <typename T>
int64_t lacking(const Sizes& sizes) {
  reached = 0;
  T* const data = reinterpret_cast<T*>(4096);
  for (const int64_t gap : {0, 1}) {
    cuda::embedding_backward<T>({data, sizes.tokens, sizes.features, sizes.features + gap, 1},
                                nullptr, nullptr, {data, 1, sizes.features, sizes.features, 1},
                                workspace_at_its_address<Compute<T>>(), nullptr);
  }
  return reached -
         cuda::embedding_workspace(sizes.tokens, sizes.features) * int64_t{sizeof(Compute<T>)};
}

}  // namespace

extern "C" int workspaces_lack(int dtype, const Sizes* sizes, int64_t count, int64_t* bytes) {
  return guarded([&] {
#define CALL(T)                                              \
  if (dtype == kNumber<T>) {                                 \
    look_at_launches(look<T>);                               \
    std::transform(sizes, sizes + count, bytes, lacking<T>); \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}
