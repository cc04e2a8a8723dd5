// The CPU kernels of batch norm as the rest of the extension sees them.
#pragma once

#include "../../arguments.h"
#include "../dispatch.h"

namespace makemore_ext::cpu {

template <typename T>
struct BatchNormKernels {
  // statistics: mean, variance (divided by the elements of a channel - correction) and invstd,
  // [3, channels]. Training computes all of them, evaluation reads mean and variance and computes
  // invstd. An output without data is not computed.
  void (&forward)(const BatchNormArguments<T>&, double* statistics, ChannelView<T> output);
  void (&backward)(const BatchNormArguments<T>&, const double* statistics,
                   const BatchNormGradients<T>&);
};

}  // namespace makemore_ext::cpu
