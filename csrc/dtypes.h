// The element types of tensors, and the type each is computed in.
#pragma once

#include <cstdint>

namespace makemore_ext {

// IEEE binary16 and the upper half of a binary32, as they lie in memory. No arithmetic: a kernel
// converts them in registers, see cpu/simd/vec.h and cuda/vec.cuh.
struct Half {
  uint16_t bits;
};
struct BFloat16 {
  uint16_t bits;
};

template <typename T>
struct ComputeOf {
  using type = T;
};
template <>
struct ComputeOf<Half> {
  using type = float;
};
template <>
struct ComputeOf<BFloat16> {
  using type = float;
};

template <typename T>
using Compute = typename ComputeOf<T>::type;

}  // namespace makemore_ext
