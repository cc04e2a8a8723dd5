// Stochastic gradient descent, for one vector of parameters at a time:
//
//   direction = gradient + weight_decay parameter
//   momentum_buffer = direction += momentum momentum_buffer    where there is momentum
//   parameter -= lr direction
#pragma once

#include <cstdint>

#include "../simd/vec.h"
#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Parameters, their gradients and their momentum buffers lie at the same places of three arrays:
// where a gradient is, or would be, names its parameter.
template <typename T>
class Descent {
 public:
  // The distances are those of a parameter and of its momentum buffer from its gradient.
  Descent(double lr, const MLPDescent<T>& descent, int64_t to_parameter, int64_t to_buffer)
      : lr_(static_cast<T>(lr)),
        momentum_(static_cast<T>(descent.momentum)),
        weight_decay_(static_cast<T>(descent.weight_decay)),
        has_momentum_(descent.momentum_buffers[0] != nullptr),
        to_parameter_(to_parameter),
        to_buffer_(to_buffer) {}

  // Updates the parameters whose gradient belongs at `place`.
  void along(Vec<T> gradient, T* place) const {
    const Vec<T> before = load(place + to_parameter_);
    Vec<T> direction = gradient + weight_decay_ * before;
    if (has_momentum_) {
      direction += momentum_ * load(place + to_buffer_);
      store(place + to_buffer_, direction);
    }
    store(place + to_parameter_, before - lr_ * direction);
  }

 private:
  T lr_;
  T momentum_;
  T weight_decay_;
  bool has_momentum_;
  int64_t to_parameter_;
  int64_t to_buffer_;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
