// What calls attach to results, a function an operation.
#pragma once

#include "../ops/entries.h"
#include "nodes.h"

namespace makemore_ext {

// What cross entropy keeps for backward: one of the gradient, or statistics and total_weight.
struct CrossEntropyKept {
  Tensor statistics, total_weight, gradient;
  bool in_place = false;
};

// `lse` may be undefined.
void attach_cross_entropy(const Tensor& loss, const Tensor& lse, const Tensor& input,
                          const Tensor& target, const Tensor& weight,
                          const CrossEntropyOptions& options, const CrossEntropyKept& kept);

// With the tangent too. `weight` and `bias` may be undefined.
void attach_batch_norm(const Tensor& output, const Tensor& statistics, const Tensor& input,
                       const Tensor& weight, const Tensor& bias, const BatchNormOptions& options);

void attach_embedding(const Tensor& output, const Tensor& input, const Tensor& weight,
                      const c10::SymInt& padding_idx);

}  // namespace makemore_ext
