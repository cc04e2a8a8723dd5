// The CPU kernels of cross entropy as the rest of the extension sees them.
#pragma once

#include <cstdint>

#include "../../arguments.h"
#include "../dispatch.h"

namespace makemore_ext::cpu {

// The gradients of grad_loss, grad_lse and the logits, from that of the gradient.
template <typename T>
struct CrossEntropySecond {
  RowView<const T> grad_grad_input;
  Vector<const Compute<T>> grad_loss;  // with stride 0 where the loss was reduced
  Vector<const Compute<T>> grad_lse;   // or without data
  Vector<Compute<T>> for_loss;         // as grad_loss
  Vector<Compute<T>> for_lse;          // as grad_lse
  RowView<T> for_input;
};

template <typename T>
struct CrossEntropyKernels {
  // loss: [rows] for Reduction::none, else one value. statistics: max, sum of exp(x - max) and A of
  // each row, see cross_entropy.cpp, [3, rows], or null. total_weight: what the mean divides by.
  // gradient: that of the reduced loss, or without data. Throws std::out_of_range for a target
  // outside [0, classes) that is not ignore_index.
  void (&forward)(const CrossEntropyArguments<T>&, Compute<T>* loss, double* statistics,
                  double* total_weight, RowView<T> gradient);
  // grad_output: of the loss, with stride 0 where it was reduced. grad_lse: or without data. The
  // gradient may take the memory of the logits.
  void (&backward)(const CrossEntropyArguments<T>&, Vector<const Compute<T>> grad_output,
                   Vector<const Compute<T>> grad_lse, const double* statistics, double total_weight,
                   RowView<T> gradient);
  void (&second_gradients)(const CrossEntropyArguments<T>&, const CrossEntropySecond<T>&);
};

}  // namespace makemore_ext::cpu
