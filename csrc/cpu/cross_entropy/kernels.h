// The CPU kernels of cross entropy as the rest of the extension sees them.
#pragma once

#include <cstdint>

#include "../../arguments.h"
#include "../dispatch.h"

namespace makemore_ext::cpu {

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
};

}  // namespace makemore_ext::cpu
