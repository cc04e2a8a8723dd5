// The gradient of an embedding table: row v is the sum of the rows of grad_output whose index is v.
//
// The indices come sorted, those of one row as a run, in order of appearance. The runs are cut in
// chunks of fixed size, so that one that is long is summed by many warps. A run within a chunk is
// written at once; of one that crosses into others, each chunk leaves its part in the workspace,
// and a second kernel adds the parts in order. No atomics: the result is the same bits on every
// run.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../launch.cuh"
#include "../reduce.cuh"
#include "../vec.cuh"

namespace makemore_ext::cuda {

inline constexpr int kChunkRows = 32;
inline constexpr int kChunksPerBlock = 4;  // one a warp

template <typename T>
struct EmbeddingTask {
  Matrix<const T> grad_output;  // [tokens, features]
  const int64_t* indices;       // [tokens], sorted
  const int64_t* order;         // [tokens]: the row of grad_output that each stands for
  Matrix<T> grad_weight;        // [vocabulary, features], zero where there is no index
  // For each chunk what it has of the run that began before it, and of the one that goes on after
  // it: [chunks, 2, features].
  Compute<T>* parts;

  MAKEMORE_EXT_HOST_DEVICE int64_t tokens() const { return grad_output.rows; }
  MAKEMORE_EXT_HOST_DEVICE int64_t begin(int64_t chunk) const { return chunk * kChunkRows; }
  __device__ int64_t end(int64_t chunk) const {
    const int64_t next = begin(chunk + 1);
    return next < tokens() ? next : tokens();
  }
  __device__ bool begins_before(int64_t position) const {
    return position > 0 && indices[position - 1] == indices[position];
  }
  __device__ bool goes_on(int64_t end) const {
    return end < tokens() && indices[end - 1] == indices[end];
  }
  __device__ bool is_row(int64_t index) const {
    return static_cast<uint64_t>(index) < static_cast<uint64_t>(grad_weight.rows);
  }
  MAKEMORE_EXT_HOST_DEVICE Compute<T>* part(int64_t chunk, bool of_next) const {
    return parts + (2 * chunk + of_next) * grad_output.columns;
  }
};

// `count` neighbouring features: one, or those of 16 bytes.
template <typename T, int count>
struct FeatureSums {
  using C = Compute<T>;

  static constexpr int kAtOnce = count == 1 ? 1 : kLanes<C>;

  Sum<C> sum[count];

  __device__ void add(const Pack<T, count>& values) {
#pragma unroll
    for (int i = 0; i < count; ++i) {
      sum[i].add(values.lane[i]);
    }
  }
  // Sums of this type that another chunk left.
  __device__ void add_part(const C* part) {
#pragma unroll
    for (int i = 0; i < count; i += kAtOnce) {
      const auto values = Pack<C, kAtOnce>::load(part + i);
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        sum[i + k].add(values.lane[k]);
      }
    }
  }
  __device__ void store_part(C* part) const {
#pragma unroll
    for (int i = 0; i < count; i += kAtOnce) {
      Pack<C, kAtOnce> values;
#pragma unroll
      for (int k = 0; k < kAtOnce; ++k) {
        values.lane[k] = static_cast<C>(sum[i + k].total());
      }
      values.store(part + i);
    }
  }
  __device__ void store(T* destination) const {
    Pack<T, count> result;
#pragma unroll
    for (int i = 0; i < count; ++i) {
      result.lane[i] = static_cast<C>(sum[i].total());
    }
    result.store(destination);
  }
};

template <typename T, int count>
__device__ inline void sum_chunk(const EmbeddingTask<T>& task, int64_t chunk, int64_t feature) {
  const int64_t begin = task.begin(chunk);
  const int64_t end = task.end(chunk);
  for (int64_t k = begin; k < end;) {
    const int64_t index = task.indices[k];
    const bool is_first_part = k == begin && task.begins_before(begin);
    FeatureSums<T, count> sums{};
    for (; k < end && task.indices[k] == index; ++k) {
      const T* row = task.grad_output.row(task.order[k]);
      sums.add(Pack<T, count>::load(row + feature * task.grad_output.column_stride));
    }
    if (is_first_part) {
      sums.store_part(task.part(chunk, false) + feature);
    } else if (k == end && task.goes_on(end)) {
      sums.store_part(task.part(chunk, true) + feature);
    } else if (task.is_row(index)) {
      sums.store(task.grad_weight.row(index) + feature);
    }
  }
}

// The runs that begin in this chunk and go on after it.
template <typename T, int count>
__device__ inline void sum_parts(const EmbeddingTask<T>& task, int64_t chunk, int64_t feature) {
  const int64_t end = task.end(chunk);
  const int64_t index = task.indices[end - 1];
  const bool begins_here =
      task.indices[task.begin(chunk)] != index || !task.begins_before(task.begin(chunk));
  if (!begins_here || !task.goes_on(end) || !task.is_row(index)) {
    return;
  }
  FeatureSums<T, count> sums{};
  sums.add_part(task.part(chunk, true) + feature);
  for (++chunk; task.begin(chunk) < task.tokens() && task.indices[task.begin(chunk)] == index;
       ++chunk) {
    sums.add_part(task.part(chunk, false) + feature);
  }
  sums.store(task.grad_weight.row(index) + feature);
}

enum class EmbeddingStep { chunks, parts };

// Blocks of a warp × kChunksPerBlock: lanes along the features, kLanes<T> each where `vectors`.
template <typename T, EmbeddingStep step>
__global__ void __launch_bounds__(kWarpSize* kChunksPerBlock)
    embedding_backward_kernel(const __grid_constant__ EmbeddingTask<T> task, bool vectors) {
  const int64_t chunk = block_index() * kChunksPerBlock + threadIdx.y;
  const int64_t lane = static_cast<int64_t>(blockIdx.y) * kWarpSize + threadIdx.x;
  if (task.begin(chunk) >= task.tokens()) {
    return;
  }
  const auto run = [&](auto size) {
    constexpr int count = decltype(size)::value;
    const int64_t feature = lane * count;
    if (feature < task.grad_output.columns) {
      if constexpr (step == EmbeddingStep::chunks) {
        sum_chunk<T, count>(task, chunk, feature);
      } else {
        sum_parts<T, count>(task, chunk, feature);
      }
    }
  };
  if (vectors) {
    run(std::integral_constant<int, kLanes<T>>{});
  } else {
    run(std::integral_constant<int, 1>{});
  }
}

}  // namespace makemore_ext::cuda
