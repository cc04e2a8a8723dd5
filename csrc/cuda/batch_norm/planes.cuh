// Batch norm over channels in planes, as those of contiguous images: the elements of a plane follow
// each other, planes of one channel are apart. A block takes a part of a channel; some of its
// threads share a plane, 16 bytes at a time. The twin of csrc/cpu/batch_norm/planes.h.
#pragma once

#include <cstdint>

#include "../reduce.cuh"
#include "../vec.cuh"
#include "parts.cuh"
#include "passes.cuh"

namespace makemore_ext::cuda {

struct PlaneGrid {
  int width;  // the threads that share a plane, a power of 2
  Cut cut;

  template <typename T>
  static PlaneGrid of(const ChannelShape& shape) {
    constexpr int64_t kLeastElements = 8192;
    const int64_t elements = std::max(
        kLeastElements, ceil_div(shape.elements(), kManyBlocks * kLeastElements) * kLeastElements);
    PlaneGrid grid{kBatchNormThreads, {shape.outer, shape.inner, 1, elements}};
    if (shape.inner < elements) {
      grid.cut.band_rows = elements / shape.inner;
      grid.cut.chunk_size = shape.inner;
    }
    while (grid.width / 2 * kLanes<T> >= shape.inner && grid.width > 1) {
      grid.width /= 2;
    }
    return grid;
  }

  int64_t blocks(int64_t channels) const { return channels * cut.parts(); }
};

// Calls body(place, count) for this thread's elements of a part.
template <typename Pass, typename Body>
__device__ inline void for_each_in_part(const Pass& pass, const PlaneGrid& grid, int64_t channel,
                                        const Part& part, const Body& body) {
  using T = typename Pass::Element;
  const int thread = static_cast<int>(threadIdx.x);
  for (int64_t row = part.row + thread / grid.width; row < part.row + part.rows;
       row += kBatchNormThreads / grid.width) {
    const Place place{row, channel, part.index};
    pass.split(place, part.size)
        .template for_each<T>(thread % grid.width, grid.width, [&](int64_t i, auto size) {
          body(Place{row, channel, part.index + i}, size);
        });
  }
}

template <typename Pass>
__global__ void __launch_bounds__(kBatchNormThreads, 3)
    batch_norm_sum_planes(const __grid_constant__ Pass pass,
                          const __grid_constant__ PlaneGrid grid) {
  using C = Compute<typename Pass::Element>;
  const int64_t channel = block_index() / grid.cut.parts();
  const int64_t index = block_index() % grid.cut.parts();
  const Part part = grid.cut.part(index);
  const PerLane<C, 1> centre = pass.template centre<1>(part, {part.row, channel, part.index},
                                                       PerLane<int64_t, 1>{{channel}});

  Sum<C> first{};
  Sum<C> second{};
  for_each_in_part(pass, grid, channel, part, [&](const Place& place, auto size) {
    constexpr int count = decltype(size)::value;
    Terms<C, count> terms{};
    pass.add(place, centre, terms);
#pragma unroll
    for (int k = 1; k < count; ++k) {
      terms.first[0] += terms.first[k];
      terms.second[0] += terms.second[k];
    }
    first.add(terms.first[0]);
    second.add(terms.second[0]);
  });
  const double sum = block_sum(first.total());
  __syncthreads();
  const double other = block_sum(second.total());
  if (threadIdx.x == 0) {
    pass.store(channel, index, centre[0], sum, other);
  }
}

// The last blocks first: what the sums read last is in the cache.
template <typename Pass>
__global__ void __launch_bounds__(kBatchNormThreads, 3)
    batch_norm_apply_planes(const __grid_constant__ Pass pass,
                            const __grid_constant__ PlaneGrid grid) {
  using C = Compute<typename Pass::Element>;
  const int64_t block = static_cast<int64_t>(gridDim.x) - 1 - block_index();
  const int64_t channel = block / grid.cut.parts();
  Parameters<C, 1> parameters;
#pragma unroll
  for (int parameter = 0; parameter < kPassParameters; ++parameter) {
    parameters[parameter].values[0] = pass.parameter(parameter, channel);
  }
  for_each_in_part(pass, grid, channel, grid.cut.part(block % grid.cut.parts()),
                   [&](const Place& place, auto size) {
                     pass.template write<decltype(size)::value>(place, parameters);
                   });
}

}  // namespace makemore_ext::cuda
