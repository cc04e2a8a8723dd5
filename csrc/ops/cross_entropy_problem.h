// The tensors of a call of cross entropy, checked, and as the kernels take them.
#pragma once

#include <cmath>
#include <vector>

#include "../arguments.h"
#include "entries.h"
#include "row_views.h"
#include "tensors.h"

namespace makemore_ext {

inline bool is_probabilities(const Tensor& target) {
  return target.scalar_type() != ScalarType::Long && target.scalar_type() != ScalarType::Byte;
}

// Null for probabilities.
inline Indices indices_of(const Tensor& target) {
  Indices result{};
  if (target.scalar_type() == ScalarType::Byte) {
    result.narrow = const_data<uint8_t>(target);
  } else if (target.scalar_type() == ScalarType::Long) {
    result.wide = const_data<int64_t>(target);
  }
  return result;
}

inline void check_target(const Tensor& target, const Tensor& input) {
  STD_TORCH_CHECK(input.dim() >= 1, "input must have at least 1 dimension, got 0");
  if (is_probabilities(target)) {
    check_like(target, input, "target");
  } else {
    check_sizes(target, row_sizes(input, {}), "target");
  }
  check_device(target, input, "target");
}

inline void check(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                  const CrossEntropyOptions& options) {
  check_target(target, input);
  if (weight) {
    check_parameter(*weight, input.size(class_dim(input)), input, "weight");
  }
  STD_TORCH_CHECK(options.reduction >= 0 && options.reduction <= 2,
                  "reduction must be 0, 1 or 2, got ", options.reduction);
  STD_TORCH_CHECK(options.label_smoothing >= 0 && options.label_smoothing <= 1,
                  "label_smoothing must be in [0, 1], got ", options.label_smoothing);
  STD_TORCH_CHECK(std::isfinite(options.lse_square_scale), "lse_square_scale must be finite, got ",
                  options.lse_square_scale);
}

// The tensors of one call as the kernels take them: indices and weight contiguous, logits and
// probabilities as they are, unless they have too many dimensions to walk. So is grad_grad_input,
// where second gradients are asked for.
class CrossEntropyProblem {
 public:
  enum class GradientMemory { none, fresh, logits };

  CrossEntropyProblem(const Tensor& input, const Tensor& target, const OptionalTensor& weight,
                      const CrossEntropyOptions& options, GradientMemory memory,
                      const OptionalTensor& grad_grad_input = std::nullopt)
      : input_(input),
        target_(is_probabilities(target) ? target : make_contiguous(target)),
        grad_grad_input_(grad_grad_input),
        options_(options),
        memory_(memory) {
    check(input, target, weight, options);
    if (grad_grad_input_) {
      check_like(*grad_grad_input_, input, "grad_grad_input");
    }
    weight_ = convert(weight, compute_dtype(input));
    if (memory != GradientMemory::none) {
      gradient_ = memory == GradientMemory::logits ? input : allocate_like(input);
    }
    rows_ = JoinedRows(views());
    if (!rows_.fit()) {
      STD_TORCH_CHECK(memory != GradientMemory::logits, "input must have at most ",
                      kMostRowDimensions, " dimensions that cannot be joined, got ",
                      rows_.shape().dimensions);
      input_ = torch::stable::contiguous(input);
      target_ = torch::stable::contiguous(target);
      grad_grad_input_ = make_contiguous(grad_grad_input_);
      if (gradient_) {
        gradient_ = allocate_like(input_);
      }
      rows_ = JoinedRows(views());
    }
  }

  const Tensor& target() const { return target_; }
  const OptionalTensor& weight() const { return weight_; }
  const OptionalTensor& gradient() const { return gradient_; }
  bool in_place() const { return memory_ == GradientMemory::logits; }

  template <typename T>
  CrossEntropyArguments<T> arguments() const {
    CrossEntropyArguments<T> result{};
    result.shape = rows_.shape();
    result.logits = rows_.view(input_, const_data<T>(input_));
    result.has_probabilities = is_probabilities(target_);
    if (result.has_probabilities) {
      result.probabilities = rows_.view(target_, const_data<T>(target_));
    }
    result.target = indices_of(target_);
    result.weight = const_data<Compute<T>>(weight_);
    result.ignore_index = options_.ignore_index;
    result.label_smoothing = options_.label_smoothing;
    result.lse_square_scale = options_.lse_square_scale;
    result.reduction = static_cast<Reduction>(options_.reduction);
    return result;
  }

  template <typename T>
  RowView<const T> grad_grad_input_view() const {
    return rows_.view(*grad_grad_input_, const_data<T>(*grad_grad_input_));
  }

  template <typename T>
  RowView<T> gradient_view() const {
    return gradient_ ? rows_.view(*gradient_, mutable_data<T>(*gradient_)) : RowView<T>{};
  }

 private:
  std::vector<const Tensor*> views() const {
    std::vector<const Tensor*> result{&input_};
    if (is_probabilities(target_)) {
      result.push_back(&target_);
    }
    for (const OptionalTensor* tensor : {&grad_grad_input_, &gradient_}) {
      if (*tensor) {
        result.push_back(&**tensor);
      }
    }
    return result;
  }

  Tensor input_;
  Tensor target_;
  OptionalTensor grad_grad_input_;
  OptionalTensor weight_;
  OptionalTensor gradient_;
  CrossEntropyOptions options_;
  GradientMemory memory_;
  JoinedRows rows_;
};

}  // namespace makemore_ext
