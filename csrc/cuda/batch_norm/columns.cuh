// Batch norm over channels that lie side by side, (N, C) or channels last: a matrix with a column
// for each channel. Planes of few elements are worked on so too, with as many columns a channel as
// its planes have elements. The twin of csrc/cpu/batch_norm/columns.h.
//
// A thread takes a unit, the columns of one 16-byte access or, where there are none, one column,
// and walks down rows. The threads of a warp have neighbouring units, so that what it reads at once
// is contiguous.
#pragma once

#include <cstdint>
#include <type_traits>

#include "../reduce.cuh"
#include "../vec.cuh"
#include "parts.cuh"
#include "passes.cuh"

namespace makemore_ext::cuda {

inline constexpr int kColumnWarps = kBatchNormThreads / kWarpSize;
inline constexpr int kRunRows = 8;  // whose terms are added in the type of the elements

// Units in blocks of `width`, a power of 2; rows in the bands of the cut.
template <typename T>
struct ColumnGrid {
  Split split;  // of the columns
  int width;
  Cut cut;

  static ColumnGrid of(const ChannelShape& shape, const Split& split) {
    ColumnGrid grid{split, kWarpSize, {shape.outer, shape.inner, 0, 1}};
    while (grid.width / 2 >= grid.units()) {
      grid.width /= 2;
    }
    const int64_t steps = std::max<int64_t>(
        kRunRows, ceil_div(shape.outer * grid.across(), grid.rows_at_once() * kManyBlocks));
    grid.cut.band_rows = grid.rows_at_once() * steps;
    return grid;
  }

  MAKEMORE_EXT_HOST_DEVICE int64_t units() const {
    return split.vectors + split.size - split.vectors * kLanes<T>;
  }
  MAKEMORE_EXT_HOST_DEVICE int64_t across() const { return ceil_div(units(), width); }
  MAKEMORE_EXT_HOST_DEVICE int rows_at_once() const { return kBatchNormThreads / width; }
  int64_t blocks() const { return across() * cut.bands(); }

  // The first column of a unit, which is one of kLanes columns if it is_wide.
  __device__ bool is_wide(int64_t unit) const { return unit < split.vectors; }
  __device__ int64_t column(int64_t unit) const {
    const int64_t single = unit - split.vectors;
    return single < 0            ? split.head + unit * kLanes<T>
           : single < split.head ? single
                                 : single + split.vectors * kLanes<T>;
  }
  template <int count>
  __device__ PerLane<int64_t, count> channels(int64_t column) const {
    int64_t channel = cut.inner == 1 ? column : column / cut.inner;
    int64_t left = (channel + 1) * cut.inner - column;  // columns of the channel
    PerLane<int64_t, count> result;
#pragma unroll
    for (int k = 0; k < count; ++k) {
      result.values[k] = channel;
      if (--left == 0) {
        left = cut.inner;
        ++channel;
      }
    }
    return result;
  }
};

// What a thread of block `block` takes: a unit of every step-th row of a band.
template <typename T>
struct ColumnTask {
  int64_t band;
  int64_t unit;
  int64_t begin;  // of the band's rows
  int64_t end;
  int64_t first;  // of this thread's rows
  int step;

  __device__ ColumnTask(const ColumnGrid<T>& grid, int64_t block) {
    const int thread = static_cast<int>(threadIdx.x);
    band = block / grid.across();
    unit = block % grid.across() * grid.width + thread % grid.width;
    begin = band * grid.cut.band_rows;
    const int64_t left = grid.cut.rows - begin;
    end = begin + (left < grid.cut.band_rows ? left : grid.cut.band_rows);
    step = grid.rows_at_once();
    first = begin + thread / grid.width;
  }
};

// For each of a thread's columns, those it does not have being 0.
template <typename T>
struct ColumnSums {
  Sum<Compute<T>> first[kLanes<T>];
  Sum<Compute<T>> second[kLanes<T>];

  template <int count>
  __device__ void add(const Terms<Compute<T>, count>& terms) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      first[k].add(terms.first[k]);
      second[k].add(terms.second[k]);
    }
  }
};

template <int count, typename Pass, typename T>
__device__ inline PerLane<Compute<T>, count> centre_of(const Pass& pass, const ColumnGrid<T>& grid,
                                                       const ColumnTask<T>& task, int64_t column) {
  return pass.template centre<count>({task.begin, task.end - task.begin, column, 1},
                                     {task.begin, 0, column},
                                     grid.template channels<count>(column));
}

template <int count, typename Pass, typename T>
__device__ inline void sum_unit(const Pass& pass, const ColumnGrid<T>& grid,
                                const ColumnTask<T>& task, ColumnSums<T>& sums) {
  using C = Compute<T>;
  const int64_t column = grid.column(task.unit);
  const PerLane<C, count> centre = centre_of<count>(pass, grid, task, column);
  const int64_t run = static_cast<int64_t>(kRunRows) * task.step;
  int64_t row = task.first;
  for (; row + run - task.step < task.end; row += run) {
    Terms<C, count> terms{};
#pragma unroll 4
    for (int i = 0; i < kRunRows; ++i) {
      pass.add({row + i * task.step, 0, column}, centre, terms);
    }
    sums.add(terms);
  }
  Terms<C, count> terms{};
#pragma unroll 1
  for (; row < task.end; row += task.step) {
    pass.add({row, 0, column}, centre, terms);
  }
  sums.add(terms);
}

// Over all threads of the block that have the unit of this thread's lane: the sum for column `warp`
// of it. of_warp is what the block shares; a barrier must stand before it is used again.
template <typename C, int lanes>
__device__ inline double sum_over_rows(Sum<C> (&sums)[lanes], int width,
                                       Sum<C> (&of_warp)[kColumnWarps][lanes][kWarpSize]) {
  const int warp = static_cast<int>(threadIdx.x) / kWarpSize;
  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
#pragma unroll
  for (int k = 0; k < lanes; ++k) {
#pragma unroll 1
    for (int distance = width; distance < kWarpSize; distance *= 2) {
      sums[k].add(sums[k].from_lane(distance));
    }
    of_warp[warp][k][lane] = sums[k];
  }
  __syncthreads();
  static_assert(lanes <= kColumnWarps);
  if (warp >= lanes) {
    return 0;
  }
  Sum<C> sum = of_warp[0][warp][lane];
  for (int i = 1; i < kColumnWarps; ++i) {
    sum.add(of_warp[i][warp][lane]);
  }
  return sum.total();
}

template <typename Pass>
__global__ void __launch_bounds__(kBatchNormThreads, 2)
    batch_norm_sum_columns(const __grid_constant__ Pass pass,
                           const __grid_constant__ ColumnGrid<typename Pass::Element> grid) {
  using T = typename Pass::Element;
  __shared__ Sum<Compute<T>> of_warp[kColumnWarps][kLanes<T>][kWarpSize];
  const ColumnTask<T> task(grid, block_index());
  ColumnSums<T> sums{};
  if (grid.is_wide(task.unit)) {
    sum_unit<kLanes<T>>(pass, grid, task, sums);
  } else if (task.unit < grid.units()) {
    sum_unit<1>(pass, grid, task, sums);
  }
  const double first = sum_over_rows(sums.first, grid.width, of_warp);
  __syncthreads();
  const double second = sum_over_rows(sums.second, grid.width, of_warp);

  const int lane = static_cast<int>(threadIdx.x) % kWarpSize;
  const int k = static_cast<int>(threadIdx.x) / kWarpSize;
  if (lane < grid.width && task.unit < grid.units() &&
      k < (grid.is_wide(task.unit) ? kLanes<T> : 1)) {
    const int64_t column = grid.column(task.unit) + k;
    const int64_t channel = grid.template channels<1>(column)[0];
    const int64_t part = task.band * grid.cut.inner + (column - channel * grid.cut.inner);
    const auto centre = centre_of<1>(pass, grid, task, column);
    pass.store(channel, part, centre[0], first, second);
  }
}

template <int count, typename Pass, typename T>
__device__ inline void apply_to_unit(const Pass& pass, const ColumnGrid<T>& grid,
                                     const ColumnTask<T>& task) {
  using C = Compute<T>;
  const int64_t column = grid.column(task.unit);
  const auto channels = grid.template channels<count>(column);
  Parameters<C, count> parameters;
#pragma unroll
  for (int parameter = 0; parameter < kPassParameters; ++parameter) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      parameters[parameter].values[k] = pass.parameter(parameter, channels[k]);
    }
  }
  for (int64_t row = task.first; row < task.end; row += task.step) {
    pass.template write<count>({row, 0, column}, parameters);
  }
}

// The last blocks first: what the sums read last is in the cache.
template <typename Pass>
__global__ void __launch_bounds__(kBatchNormThreads, 4)
    batch_norm_apply_columns(const __grid_constant__ Pass pass,
                             const __grid_constant__ ColumnGrid<typename Pass::Element> grid) {
  using T = typename Pass::Element;
  const ColumnTask<T> task(grid, static_cast<int64_t>(gridDim.x) - 1 - block_index());
  if (grid.is_wide(task.unit)) {
    apply_to_unit<kLanes<T>>(pass, grid, task);
  } else if (task.unit < grid.units()) {
    apply_to_unit<1>(pass, grid, task);
  }
}

}  // namespace makemore_ext::cuda
