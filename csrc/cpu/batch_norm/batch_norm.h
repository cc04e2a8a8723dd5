// Batch norm. A channel has n elements, one for each position outside dimension 1, and
//
//   mean = sum x / n,  var = sum (x - mean)^2 / (n - correction),  invstd = 1 / sqrt(var + eps)
//   z = (x - mean) invstd weight + bias,  y = activation(z)
//
// Backward, with dz the gradient of z and xhat = (x - mean) invstd:
//
//   dbias = sum dz,  dweight = sum dz xhat
//   dx = weight invstd (dz - dbias / n - xhat dweight / (n - correction))   in training
//   dx = weight invstd dz                                                   in evaluation
//
// The two subtracted terms are what mean and var, as functions of x, feed back.
//
// Statistics are summed about a centre near the mean, from a few elements of the channel; should it
// turn out to be far, they are summed again about the mean that was found. So neither a large mean
// nor an outlying element costs digits. mean is kept in double and subtracted from a float in two
// parts: the high part without rounding where x is near it, the low part as part of the bias.
//
// Either direction is one pass for the sums and one that writes, see passes.h, over one
// of two layouts in memory, see columns.h and planes.h.
#pragma once

#include <cstdint>

#include "../../arguments.h"
#include "../scratch.h"
#include "../simd/vec.h"
#include "columns.h"
#include "passes.h"
#include "planes.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Short planes are columns of a matrix, if its rows have no gaps.
template <typename T>
bool has_columns(const ChannelShape& shape, const ChannelView<T>& view) {
  return view.data == nullptr || (shape.inner == 1 && view.channel_stride == 1) ||
         (shape.inner < kShortestPlane<T> && view.inner_stride == 1 &&
          view.channel_stride == shape.inner);
}

template <typename T>
bool is_dense(const ChannelShape& shape, const ChannelView<T>& view) {
  return view.data == nullptr || view.outer_stride == shape.channels * shape.inner;
}

template <typename Pass, typename... Views>
void run(const Pass& pass, const Views&... views) {
  const ChannelShape& shape = pass.shape();
  if ((has_columns(shape, views) && ...)) {
    run_pass(Columns<Pass>(pass, (is_dense(shape, views) && ...)), shape.elements());
  } else {
    run_pass(Planes<Pass>(pass), shape.elements());
  }
}

template <typename T>
void batch_norm_forward(const BatchNormArguments<T>& arguments, double* statistics,
                        ChannelView<T> output) {
  run(ForwardPass<T>(arguments, statistics, output), arguments.input, output);
}

template <typename T>
void batch_norm_backward(const BatchNormArguments<T>& arguments, const double* statistics,
                         const BatchNormGradients<T>& gradients) {
  const Scratch<double> sums(2 * arguments.shape.channels);
  run(BackwardPass<T>(arguments, statistics, gradients, sums.data()), arguments.input,
      gradients.grad_output, gradients.output, gradients.grad_input);
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
