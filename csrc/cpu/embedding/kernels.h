// The CPU kernel of the embedding as the rest of the extension sees it.
#pragma once

#include <cstdint>

#include "../../arguments.h"
#include "../dispatch.h"

namespace makemore_ext::cpu {

// For float and double.
template <typename T>
struct EmbeddingKernels {
  // grad_weight [vocabulary, features] = sums of the rows of grad_output [tokens, features] that
  // share an index. Throws std::out_of_range for an index outside [0, vocabulary).
  void (&backward)(Matrix<const T> grad_output, Vector<const int64_t> indices,
                   Matrix<T> grad_weight);
};

}  // namespace makemore_ext::cpu
