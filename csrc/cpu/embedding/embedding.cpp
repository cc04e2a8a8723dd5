#include "embedding.h"

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <>
EmbeddingKernels<float> table() {
  return EmbeddingKernels<float>{embedding_backward<float>};
}
template <>
EmbeddingKernels<double> table() {
  return EmbeddingKernels<double>{embedding_backward<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
