// How the elements of a channel are cut into the parts that blocks sum: by the shape alone, so that
// the sums are the same bits on every device and in whatever order the blocks run.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../arguments.h"
#include "launch.cuh"

namespace makemore_ext::cuda {

inline constexpr int kBatchNormThreads = 256;

// Enough blocks to keep the largest devices busy, few enough that little is handed on.
inline constexpr int64_t kManyBlocks = 2048;

// An element of a channel, in any view.
struct Place {
  int64_t row;  // of the outer dimension
  int64_t channel;
  int64_t index;  // within the plane, or of the column if channel is 0

  template <typename T>
  MAKEMORE_EXT_HOST_DEVICE T* in(const ChannelView<T>& view) const {
    return view.data + row * view.outer_stride + channel * view.channel_stride + index;
  }
};

// Rows [row, row + rows) of elements [index, index + size).
struct Part {
  int64_t row;
  int64_t rows;
  int64_t index;
  int64_t size;

  __device__ int64_t count() const { return rows * size; }
};

// The rows of `inner` elements of a channel, in groups of rows and those in chunks of elements.
struct Cut {
  int64_t rows;
  int64_t inner;
  int64_t group_rows;
  int64_t chunk_size;

  MAKEMORE_EXT_HOST_DEVICE int64_t groups() const { return ceil_div(rows, group_rows); }
  MAKEMORE_EXT_HOST_DEVICE int64_t chunks() const { return ceil_div(inner, chunk_size); }
  MAKEMORE_EXT_HOST_DEVICE int64_t parts() const { return groups() * chunks(); }

  __device__ Part part(int64_t index) const {
    const int64_t row = index / chunks() * group_rows;
    const int64_t begin = index % chunks() * chunk_size;
    return {row, rows - row < group_rows ? rows - row : group_rows, begin,
            inner - begin < chunk_size ? inner - begin : chunk_size};
  }
};

}  // namespace makemore_ext::cuda
