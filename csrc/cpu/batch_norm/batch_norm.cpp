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
// In the names of makemore_ext.reference x is hprebn, xhat bnraw, weight bngain, bias bnbias, z
// hpreact, dz dhpreact and dx dhprebn. plain.h has the same for one channel, without vectors.
//
// Either direction goes over the input twice: it takes sums, and then it writes. Here is in what
// order; what is summed, made of the sums and written, in passes.h, of which channels.h has the
// arrays; the way through memory, for two layouts, in columns.h and planes.h.
#include <cstdint>

#include "../../arguments.h"
#include "../parallel.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "channels.h"
#include "columns.h"
#include "kernels.h"
#include "passes.h"
#include "planes.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <typename Pass, typename Layout>
void choose_centres(const Pass& pass, const Layout& layout, int64_t block) {
  if constexpr (Pass::kKnowsCentre) {
    pass.set_centres(layout.channels(block));
    layout.spread_centres(block);
  } else {
    layout.sample_centres(block);
  }
}

// Sums to statistics or gradients: whether centres were moved, and the sums are to be taken again.
template <typename Pass, typename Layout>
bool finish_sums(const Pass& pass, const Layout& layout, int64_t block) {
  layout.join_sums(block);
  const bool any_moved = pass.finish_sums(layout.channels(block));
  if (any_moved) {
    layout.spread_centres(block);
  }
  return any_moved;
}

template <typename Pass, typename Layout>
void set_parameters(const Pass& pass, const Layout& layout, int64_t block) {
  const Range channels = layout.channels(block);
  if (!pass.needs_sums()) {
    pass.finish_without_sums(channels);
  }
  pass.set_parameters(channels);
  layout.spread_parameters(block);
}

template <typename Pass, typename Layout>
void write(const Pass& pass, const Layout& layout, int64_t block, int64_t piece) {
  layout.write(block, piece);
  const Range channels = layout.channels(block);
  const auto& statistics = pass.statistics();
  if (statistics.any_extreme(channels)) {
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      if (statistics.is_extreme(channel)) {
        pass.write_extreme(channel, layout.elements(piece));
      }
    }
  }
  finish_stores();
}

// Blocks of channels that are one piece each: all is done with one before the next, so that the
// block is read from memory once.
template <typename Pass, typename Layout>
void run_blocks(const Pass& pass, const Layout& layout) {
  for_each_piece(layout.blocks(), 1, pass.shape().elements(), [&](int64_t block, int64_t, int64_t) {
    if (pass.needs_sums()) {
      choose_centres(pass, layout, block);
      layout.sum(block, 0);
      if (finish_sums(pass, layout, block)) {
        layout.sum(block, 0);
        finish_sums(pass, layout, block);
      }
    }
    if (pass.needs_result()) {
      set_parameters(pass, layout, block);
      write(pass, layout, block, 0);
    }
  });
}

// Blocks of channels in many pieces: the sums of all come first. What was read last is written
// first, as it is still in the cache.
template <typename Pass, typename Layout>
void run_pieces(const Pass& pass, const Layout& layout) {
  const int64_t blocks = layout.blocks(), pieces = layout.pieces();
  const auto for_each_piece_of_all = [&](bool backwards, const auto& body) {
    for_each_piece(
        blocks * pieces, 1, pass.shape().elements(),
        [&](int64_t i, int64_t, int64_t) { body(i / pieces, i % pieces); }, backwards);
  };
  const auto take_sums = [&] {
    for_each_piece_of_all(false, [&](int64_t block, int64_t piece) { layout.sum(block, piece); });
    bool any_moved = false;
    for (int64_t block = 0; block < blocks; ++block) {
      any_moved = finish_sums(pass, layout, block) || any_moved;
    }
    return any_moved;
  };
  if (pass.needs_sums()) {
    for (int64_t block = 0; block < blocks; ++block) {
      choose_centres(pass, layout, block);
    }
    if (take_sums()) {
      take_sums();
    }
  }
  if (pass.needs_result()) {
    for (int64_t block = 0; block < blocks; ++block) {
      set_parameters(pass, layout, block);
    }
    for_each_piece_of_all(true,
                          [&](int64_t block, int64_t piece) { write(pass, layout, block, piece); });
  }
}

template <typename Pass, typename Layout>
void run(const Pass& pass, const Layout& layout) {
  layout.pieces() == 1 ? run_blocks(pass, layout) : run_pieces(pass, layout);
}

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
void run_on(const Pass& pass, const Views&... views) {
  const ChannelShape& shape = pass.shape();
  if ((has_columns(shape, views) && ...)) {
    run(pass, Columns<Pass>(pass, (is_dense(shape, views) && ...)));
  } else {
    run(pass, Planes<Pass>(pass));
  }
}

template <typename T>
void batch_norm_forward(const BatchNormArguments<T>& arguments, double* statistics,
                        ChannelView<T> output) {
  const Channels<Compute<T>> channels(arguments.shape.channels);
  run_on(ForwardPass<T>(arguments, statistics, output, channels), arguments.input, output);
}

template <typename T>
void batch_norm_backward(const BatchNormArguments<T>& arguments, const double* statistics,
                         const BatchNormGradients<T>& gradients) {
  const Channels<Compute<T>> channels(arguments.shape.channels);
  run_on(BackwardPass<T>(arguments, statistics, gradients, channels), arguments.input,
         gradients.grad_output, gradients.output, gradients.grad_input);
}

template <>
BatchNormKernels<Half> table() {
  return BatchNormKernels<Half>{batch_norm_forward<Half>, batch_norm_backward<Half>};
}
template <>
BatchNormKernels<BFloat16> table() {
  return BatchNormKernels<BFloat16>{batch_norm_forward<BFloat16>, batch_norm_backward<BFloat16>};
}
template <>
BatchNormKernels<float> table() {
  return BatchNormKernels<float>{batch_norm_forward<float>, batch_norm_backward<float>};
}
template <>
BatchNormKernels<double> table() {
  return BatchNormKernels<double>{batch_norm_forward<double>, batch_norm_backward<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
