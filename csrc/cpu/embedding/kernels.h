// The CPU kernels of the embedding as the rest of the extension sees them.
#pragma once

#include <cstdint>

#include "../../arguments.h"
#include "../dispatch.h"

namespace makemore_ext::cpu {

template <typename T>
struct EmbeddingKernels {
  // output [tokens, features], contiguous: row i is that of weight [vocabulary, features] at
  // indices[i]. Both throw std::out_of_range for an index outside [0, vocabulary).
  void (&forward)(Matrix<const T> weight, Vector<const int64_t> indices, Matrix<T> output);
  // grad_weight [vocabulary, features] = sums of the rows of grad_output [tokens, features] that
  // share an index, and 0 at padding_idx.
  void (&backward)(Matrix<const T> grad_output, Vector<const int64_t> indices, int64_t padding_idx,
                   Matrix<T> grad_weight);
};

}  // namespace makemore_ext::cpu
