// Launches the kernels of the embedding's gradient.
#include <cstdint>
#include <stdexcept>

#include "../kernels.h"
#include "../launch.cuh"
#include "embedding.cuh"

namespace makemore_ext::cuda {

namespace {

constexpr int64_t kMostFeatureBlocks = 65535;  // the second dimension of a grid

// Whether every row begins at a multiple of 16 bytes and is a whole number of those.
template <typename T>
bool has_aligned_rows(const Matrix<T>& matrix) {
  return reinterpret_cast<uintptr_t>(matrix.data) % 16 == 0 && matrix.column_stride == 1 &&
         matrix.row_stride % kLanes<T> == 0 && matrix.columns % kLanes<T> == 0;
}

}  // namespace

int64_t embedding_workspace(int64_t tokens, int64_t features) {
  return 2 * ceil_div(tokens, kChunkRows) * features;
}

template <typename T>
void embedding_backward(Matrix<const T> grad_output, const int64_t* indices, const int64_t* order,
                        Matrix<T> grad_weight, Compute<T>* workspace, Stream stream_handle) {
  constexpr const char* kName = "embedding_backward";
  const auto stream = static_cast<cudaStream_t>(stream_handle);
  const auto bytes = static_cast<size_t>(grad_weight.rows * grad_weight.columns) * sizeof(T);
  if (bytes == 0) {
    return;
  }
  const bool vectors = has_aligned_rows(grad_output) && has_aligned_rows(grad_weight);
  const int64_t lanes = grad_output.columns / (vectors ? kLanes<T> : 1);
  const int64_t feature_blocks = ceil_div(lanes, kWarpSize);
  if (feature_blocks > kMostFeatureBlocks) {
    throw std::runtime_error("embedding_backward: more features than a grid has blocks for");
  }
  cudaMemsetAsync(grad_weight.data, 0, bytes, stream);
  if (grad_output.rows > 0) {
    const int64_t blocks = ceil_div(ceil_div(grad_output.rows, kChunkRows), kChunksPerBlock);
    const dim3 grid(grid_of(blocks, kName), static_cast<unsigned>(feature_blocks));
    const dim3 block(kWarpSize, kChunksPerBlock);
    const EmbeddingTask<T> task{grad_output, indices, order, grad_weight, workspace};
    embedding_backward_kernel<T, EmbeddingStep::chunks><<<grid, block, 0, stream>>>(task, vectors);
    check_launch(kName);
    embedding_backward_kernel<T, EmbeddingStep::parts><<<grid, block, 0, stream>>>(task, vectors);
  }
  check_launch(kName);
}

#define MAKEMORE_EXT_DEFINE(T)                                                                 \
  template void embedding_backward(Matrix<const T>, const int64_t*, const int64_t*, Matrix<T>, \
                                   Compute<T>*, Stream);
MAKEMORE_EXT_CUDA_DTYPES(MAKEMORE_EXT_DEFINE)
#undef MAKEMORE_EXT_DEFINE

}  // namespace makemore_ext::cuda
