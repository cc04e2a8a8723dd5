// The CPU kernels of the fused MLP as the rest of the extension sees them.
#pragma once

#include <cstdint>

#include "../dispatch.h"

namespace makemore_ext::cpu {

// The network of csrc/cpu/fused_mlp/fused_mlp.cpp.
struct MLPSizes {
  int64_t vocabulary;
  int64_t context;
  int64_t embedding;
  int64_t hidden;
};

enum MLPParameter { kC, kW1, kB1, kW2, kB2, kBngain, kBnbias, kMLPParameters };

// One contiguous array for each parameter, in the order and of the shape that
// makemore_ext.reference gives Parameters.
template <typename T>
struct MLPArrays {
  T* of[kMLPParameters];

  T* operator[](int parameter) const { return of[parameter]; }
};

// Windows and the memory to work on them. Every index in `minibatches` is a row of x and y.
template <typename T>
struct MLPTask {
  MLPSizes sizes;
  MLPArrays<T> parameters;
  const int64_t* x;            // [windows, context], characters
  const int64_t* y;            // [windows]
  const int64_t* minibatches;  // [steps, batch_size]
  int64_t batch_size;          // at least 2
  void* workspace;             // fused_mlp_workspace() bytes, aligned to 64 and zero when new
};

// Stochastic gradient descent as torch.optim.SGD defines it, without dampening.
template <typename T>
struct MLPDescent {
  int64_t steps;
  const double* lr;  // [steps]
  double momentum;
  double weight_decay;
  MLPArrays<T> momentum_buffers;  // null without momentum
};

// For float and double.
template <typename T>
struct FusedMLPKernels {
  // The bytes of workspace that minibatches of this size need.
  int64_t (&workspace)(const MLPSizes&, int64_t batch_size);
  // The mean loss of one minibatch and its gradients. This and the next throw std::out_of_range for
  // an index in x or y outside [0, vocabulary), before they change parameters or buffers.
  T (&loss_and_gradients)(const MLPTask<T>&, MLPArrays<T> gradients);
  // Takes steps: changes parameters and momentum buffers. losses: [steps], before each update.
  void (&train)(const MLPTask<T>&, const MLPDescent<T>&, T* losses);
};

}  // namespace makemore_ext::cpu
