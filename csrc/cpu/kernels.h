// The CPU kernels as the rest of the extension sees them: arguments and one table of functions per
// dtype. The kernels themselves, and what fills the tables with them, are built once per
// instruction set; kernels() returns the table that this processor can run.
#pragma once

#include <cstdint>

#include "../arguments.h"

namespace makemore_ext::cpu {

// The network of csrc/cpu/fused_mlp.h.
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

template <typename T>
struct Kernels {
  // loss: [rows] for Reduction::none, else one value. statistics: max, log_sum and A of each row,
  // see cross_entropy.h, [3, rows], or null. total_weight: what the mean divides by. gradient: that
  // of the reduced loss, or without data. Throws std::out_of_range for a target outside [0,
  // classes) that is not ignore_index.
  void (*cross_entropy_forward)(const CrossEntropyArguments<T>&, Compute<T>* loss,
                                double* statistics, double* total_weight, RowView<T> gradient);
  // grad_output: of the loss, with stride 0 where it was reduced. grad_lse: or without data. The
  // gradient may take the memory of the logits.
  void (*cross_entropy_backward)(const CrossEntropyArguments<T>&,
                                 Vector<const Compute<T>> grad_output,
                                 Vector<const Compute<T>> grad_lse, const double* statistics,
                                 double total_weight, RowView<T> gradient);

  // statistics: mean, variance (divided by the elements of a channel - correction) and invstd,
  // [3, channels]. Training computes all of them, evaluation reads mean and variance and computes
  // invstd.
  void (*batch_norm_forward)(const BatchNormArguments<T>&, double* statistics,
                             ChannelView<T> output);
  void (*batch_norm_backward)(const BatchNormArguments<T>&, const double* statistics,
                              const BatchNormGradients<T>&);

  // grad_weight [vocabulary, features] = sums of the rows of grad_output [tokens, features] that
  // share an index. Throws std::out_of_range for an index outside [0, vocabulary).
  void (*embedding_backward)(Matrix<const T> grad_output, Vector<const int64_t> indices,
                             Matrix<T> grad_weight);

  // The bytes of workspace that minibatches of this size need.
  int64_t (*fused_mlp_workspace)(const MLPSizes&, int64_t batch_size);
  // The mean loss of one minibatch and its gradients. This and the next throw std::out_of_range for
  // an index in x or y outside [0, vocabulary), before they change parameters or buffers.
  T (*fused_mlp_loss_and_gradients)(const MLPTask<T>&, MLPArrays<T> gradients);
  // Takes steps: changes parameters and momentum buffers. losses: [steps], before each update.
  void (*fused_mlp_train)(const MLPTask<T>&, const MLPDescent<T>&, T* losses);

  // What the tests verify element by element. y[i] = f(x[i]), for float and double:
  void (*exp)(const T* x, T* y, int64_t count);
  void (*exp_nonpositive)(const T* x, T* y, int64_t count);
  void (*log)(const T* x, T* y, int64_t count);
  void (*tanh)(const T* x, T* y, int64_t count);
  // and the conversions from and to the type T is computed in:
  void (*widen)(const T* x, Compute<T>* y, int64_t count);
  void (*narrow)(const Compute<T>* x, T* y, int64_t count);
};

struct KernelTables {
  Kernels<Half> for_half;
  Kernels<BFloat16> for_bfloat16;
  Kernels<float> for_float;
  Kernels<double> for_double;
};

// All throw std::out_of_range. Outside the kernels, which use no std::string: its inline members
// would be built once per instruction set under one name.
[[noreturn]] void throw_target_out_of_range(int64_t target);
[[noreturn]] void throw_index_out_of_range(int64_t index, int64_t vocabulary);
[[noreturn]] void throw_argument_out_of_range(const char* name, int64_t index, int64_t limit);

// Calls body for the table of each dtype.
template <typename Body>
void for_each_table(KernelTables& tables, const Body& body) {
  body(tables.for_half);
  body(tables.for_bfloat16);
  body(tables.for_float);
  body(tables.for_double);
}

#ifdef MAKEMORE_EXT_CAPABILITY
// What each operation's .cpp puts in the tables.
namespace MAKEMORE_EXT_CAPABILITY {
void set_batch_norm(KernelTables& tables);
void set_cross_entropy(KernelTables& tables);
void set_elementary(KernelTables& tables);
void set_embedding(KernelTables& tables);
void set_fused_mlp(KernelTables& tables);
}  // namespace MAKEMORE_EXT_CAPABILITY
#endif

// The tables of each build of kernels.cpp.
namespace baseline {
KernelTables tables();
}
namespace avx2 {
KernelTables tables();
}
namespace avx512 {
KernelTables tables();
}

// "default", "avx2" or "avx512": the best this processor has, or what MAKEMORE_EXT_CPU_CAPABILITY
// asks for. Decided at the first call; throws std::invalid_argument if it asks for what there is
// not.
const char* capability();

template <typename T>
const Kernels<T>& kernels();

}  // namespace makemore_ext::cpu
