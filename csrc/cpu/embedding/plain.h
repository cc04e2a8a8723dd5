// The gradient of an embedding's table in double, element by element: the formula of embedding.cpp,
// and the place to start reading. The tests hold the kernel to it.
#pragma once

#include <algorithm>
#include <cstdint>

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// grad_weight[v] = sum over the tokens i with indices[i] = v of grad_output[i]
//
// grad_output: [tokens, features], grad_weight: [vocabulary, features], both contiguous.
inline void plain_embedding_backward(const double* grad_output, const int64_t* indices,
                                     int64_t tokens, int64_t vocabulary, int64_t features,
                                     double* grad_weight) {
  std::fill(grad_weight, grad_weight + vocabulary * features, 0.0);
  for (int64_t i = 0; i < tokens; ++i) {
    for (int64_t f = 0; f < features; ++f) {
      grad_weight[indices[i] * features + f] += grad_output[i * features + f];
    }
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
