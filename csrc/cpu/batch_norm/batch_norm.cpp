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
// order; what is summed, made of the sums and written, in passes.h; the way through memory, for
// two layouts, in columns.h and planes.h.
#include <cstdint>

#include "../../arguments.h"
#include "../parallel.h"
#include "../scratch.h"
#include "../simd/stream.h"
#include "../simd/vec.h"
#include "columns.h"
#include "kernels.h"
#include "passes.h"
#include "planes.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Calls body(channel, its place in the block) for the channels of a block.
template <typename Layout, typename Body>
void for_each_channel(const Layout& layout, int64_t block, const Body& body) {
  const int64_t first = layout.first_channel(block);
  const int64_t count = layout.channels(block);
  for (int64_t i = 0; i < count; ++i) {
    body(first + i, i);
  }
}

template <typename Pass, typename Layout>
void choose_centres(const Pass& pass, const Layout& layout, int64_t block) {
  layout.clear(block);
  if constexpr (Pass::kKnowsCentre) {
    for_each_channel(layout, block, [&](int64_t channel, int64_t i) {
      layout.set_centre(block, i, pass.centre(channel));
    });
  } else {
    layout.sample_centres(block);
  }
}

// Sums to statistics or gradients. A centre that was far from the mean is moved there: whether any
// was, so that the sums are to be taken once more.
template <typename Pass, typename Layout>
bool finish_sums(const Pass& pass, const Layout& layout, int64_t block) {
  bool any_far = false;
  layout.join_pieces(block);
  for_each_channel(layout, block, [&](int64_t channel, int64_t i) {
    const auto sums = layout.channel_sums(block, i);
    pass.finish(channel, sums);
    if (pass.is_far(channel, sums)) {
      layout.set_centre(block, i, pass.centre(channel));
      any_far = true;
    }
  });
  return any_far;
}

template <typename Pass, typename Layout>
void set_parameters(const Pass& pass, const Layout& layout, int64_t block) {
  if (!pass.needs_sums()) {
    layout.clear(block);
    const int64_t first = layout.first_channel(block);
    pass.finish(first, first + layout.channels(block));
  }
  layout.set_parameters(
      block, [&](int64_t i) { return pass.parameters(layout.first_channel(block) + i); });
}

template <typename Pass, typename Layout>
void write(const Pass& pass, const Layout& layout, int64_t block, int64_t piece) {
  layout.write(block, piece);
  const auto [begin, end] = layout.elements(piece);
  for_each_channel(layout, block, [&, begin = begin, end = end](int64_t channel, int64_t) {
    if (pass.is_extreme(channel)) {
      pass.write_extreme(channel, begin, end);
    }
  });
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

// Blocks of channels in many pieces: the sums of all come first.
template <typename Pass, typename Layout>
void run_pieces(const Pass& pass, const Layout& layout) {
  const int64_t blocks = layout.blocks(), pieces = layout.pieces();
  const auto for_each_piece_of_all = [&](const auto& body) {
    for_each_piece(blocks * pieces, 1, pass.shape().elements(),
                   [&](int64_t i, int64_t, int64_t) { body(i / pieces, i % pieces); });
  };
  const auto take_sums = [&] {
    for_each_piece_of_all([&](int64_t block, int64_t piece) { layout.sum(block, piece); });
    bool any_far = false;
    for (int64_t block = 0; block < blocks; ++block) {
      any_far = finish_sums(pass, layout, block) || any_far;
    }
    return any_far;
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
    for_each_piece_of_all([&](int64_t block, int64_t piece) { write(pass, layout, block, piece); });
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
  run_on(ForwardPass<T>(arguments, statistics, output), arguments.input, output);
}

template <typename T>
void batch_norm_backward(const BatchNormArguments<T>& arguments, const double* statistics,
                         const BatchNormGradients<T>& gradients) {
  const Scratch<double> sums(2 * arguments.shape.channels);
  run_on(BackwardPass<T>(arguments, statistics, gradients, sums.data()), arguments.input,
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
