// The elements that batch norm works on: neighbours of a row with what belongs to each,
// activations, running statistics.
#pragma once

#include <cmath>
#include <cstdint>

#include "../../arguments.h"
#include "../kernels.h"
#include "../vec.cuh"

namespace makemore_ext::cuda {

// Values of `count` neighbours of a row, or one for all of them.
template <typename C, int count>
struct PerLane {
  C values[count];

  __device__ C operator[](int lane) const { return values[count == 1 ? 0 : lane]; }
};

// Each lane's two sums, in the type of the elements: over so few terms that little is lost.
template <typename C, int count>
struct Terms {
  C first[count];
  C second[count];
};

template <typename T, int count>
__device__ inline void activate(Pack<T, count>& z, Activation activation) {
  using C = Compute<T>;
  if (activation == Activation::tanh) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      z.lane[k] = ::tanh(z.lane[k]);
    }
  } else if (activation == Activation::relu) {
#pragma unroll
    for (int k = 0; k < count; ++k) {
      z.lane[k] = z.lane[k] < C(0) ? C(0) : z.lane[k];  // a NaN stays
    }
  }
}

// From the gradient after the activation, and the activation's output y, to that before.
template <typename T, int count>
__device__ inline void activate_backward(Pack<T, count>& grad, const Pack<T, count>& y,
                                         Activation activation) {
  using C = Compute<T>;
#pragma unroll
  for (int k = 0; k < count; ++k) {
    if (activation == Activation::tanh) {
      grad.lane[k] *= (C(1) - y.lane[k]) * (C(1) + y.lane[k]);  // does not cancel near |y| = 1
    } else if (y.lane[k] <= C(0)) {  // a NaN passes the gradient on, as in torch
      grad.lane[k] = C(0);
    }
  }
}

// The elements of a running statistic, of whatever type.
__device__ inline double load_element(const FloatingVector& vector, int64_t index) {
  index *= vector.stride;
  switch (vector.type) {
    case FloatingType::half:
      return widen(static_cast<const Half*>(vector.data)[index]);
    case FloatingType::bfloat16:
      return widen(static_cast<const BFloat16*>(vector.data)[index]);
    case FloatingType::single:
      return static_cast<const float*>(vector.data)[index];
    default:
      return static_cast<const double*>(vector.data)[index];
  }
}
__device__ inline void store_element(const FloatingVector& vector, int64_t index, double value) {
  index *= vector.stride;
  const auto rounded = static_cast<float>(value);
  switch (vector.type) {
    case FloatingType::half:
      static_cast<Half*>(vector.data)[index] = narrow<Half>(rounded);
      break;
    case FloatingType::bfloat16:
      static_cast<BFloat16*>(vector.data)[index] = narrow<BFloat16>(rounded);
      break;
    case FloatingType::single:
      static_cast<float*>(vector.data)[index] = rounded;
      break;
    default:
      static_cast<double*>(vector.data)[index] = value;
  }
}

}  // namespace makemore_ext::cuda
