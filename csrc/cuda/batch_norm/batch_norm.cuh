// Batch norm on CUDA devices: the formulas, and what is kept from forward to backward, are those of
// csrc/cpu/batch_norm/batch_norm.cpp, where the names of makemore_ext.reference stand beside ours.
//
// Either direction is three kernels: one sums parts of channels, one makes of the sums of each
// channel what the third needs, and that one writes. No block adds to what another one does, and
// the parts' sums are added in an order that depends on the shape alone, so that the result does
// not depend on the order in which blocks run.
#pragma once

#include <cstdint>

#include "columns.cuh"
#include "passes.cuh"
#include "planes.cuh"

namespace makemore_ext::cuda {

// A block for each channel.
template <typename Pass>
__global__ void __launch_bounds__(kBatchNormThreads)
    batch_norm_finish(const __grid_constant__ Pass pass) {
  pass.finish(block_index());
}

}  // namespace makemore_ext::cuda
