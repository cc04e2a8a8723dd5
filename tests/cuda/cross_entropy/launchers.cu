#include "../launchers/launchers.h"
#include "../launchers/workspaces.h"
#include "cuda/cross_entropy/cross_entropy.cu"

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

extern "C" int scale(int dtype, const RowShape* shape, const void* gradient, const Indices* target,
                     int64_t ignore_index, const void* factor, Stream stream) {
  return guarded([&] {
#define CALL(T)                                                                                 \
  if (dtype == kNumber<T>) {                                                                    \
    cuda::cross_entropy_scale<T>(*shape, *static_cast<const RowView<T>*>(gradient), *target,    \
                                 ignore_index, static_cast<const Compute<T>*>(factor), stream); \
  }
    MAKEMORE_EXT_CUDA_DTYPES(CALL)
#undef CALL
  });
}

namespace {

template <typename T>
int look(const char* kernel, const Dim3* grid, const Dim3*, size_t, void*, void** arguments) {
  if (std::strstr(kernel, "cross_entropy_weights") != nullptr) {
    reach(*static_cast<double**>(arguments[5]) + grid->x);
  } else if (std::strstr(kernel, "cross_entropy_sum") != nullptr) {
    reach(*static_cast<const double**>(arguments[0]) + *static_cast<int64_t*>(arguments[1]));
  } else {
    reach(static_cast<const cuda::CrossEntropyTask<T>*>(arguments[0])->block_loss + grid->x);
  }
  return 0;
}

// The bytes by which a workspace is too small for rows or columns of this shape: at most 0.
template <typename T>
int64_t lacking(const RowShape& shape) {
  reached = 0;
  for (const int64_t class_stride : {int64_t{1}, shape.rows}) {
    CrossEntropyArguments<T> arguments{};
    arguments.shape = shape;
    arguments.logits = {reinterpret_cast<T*>(4096), class_stride, {}};
    arguments.reduction = Reduction::mean;
    cuda::cross_entropy_forward<T>(arguments, nullptr, nullptr, nullptr, {},
                                   workspace_at_its_address<double>(), nullptr);
  }
  return reached - cuda::cross_entropy_workspace(shape) * int64_t{sizeof(double)};
}

}  // namespace

extern "C" int workspaces_lack(int dtype, const RowShape* shapes, int64_t count, int64_t* bytes) {
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
