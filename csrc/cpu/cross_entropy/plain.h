// Cross entropy of one row of C logits in double, class by class: the formulas of cross_entropy.cpp
// line by line, and the place to start reading. The tests hold the kernels to it.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// A row: its logits x, target probabilities q (one at the target's class and zero elsewhere where
// the target is an index), class weights w or null for ones, all [C].
struct PlainRow {
  const double* x;
  const double* q;
  const double* w;
  int64_t classes;
  double label_smoothing;
  double lse_square_scale;

  // v_c = w_c ((1 - s) q_c + s / C)
  double share(int64_t c) const {
    const double smoothed =
        (1 - label_smoothing) * q[c] + label_smoothing / static_cast<double>(classes);
    return (w == nullptr ? 1.0 : w[c]) * smoothed;
  }

  // log(sum_c exp(x_c)), in the form that does not overflow
  double lse() const {
    const double max = *std::max_element(x, x + classes);
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) {
      sum += std::exp(x[c] - max);
    }
    return max + std::log(sum);
  }

  // sum_c v_c (lse - x_c) + z lse^2
  double loss() const {
    const double lse = this->lse();
    double result = lse_square_scale * lse * lse;
    for (int64_t c = 0; c < classes; ++c) {
      result += share(c) == 0 ? 0.0 : share(c) * (lse - x[c]);
    }
    return result;
  }

  // dx_c = (u A + 2 u z lse + g) p_c - u v_c, from the gradients u of the loss and g of lse
  void gradient(double grad_loss, double grad_lse, double* dx) const {
    const double lse = this->lse();
    double mass = 0;
    for (int64_t c = 0; c < classes; ++c) {
      mass += share(c);
    }
    const double on_softmax = grad_loss * (mass + 2 * lse_square_scale * lse) + grad_lse;
    for (int64_t c = 0; c < classes; ++c) {
      dx[c] = on_softmax * std::exp(x[c] - lse) - grad_loss * share(c);
    }
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
