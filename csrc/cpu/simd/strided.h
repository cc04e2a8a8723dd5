// Vectors of elements that need not lie side by side.
#pragma once

#include <cstdint>

#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// As load_lanes and store_lanes, `stride` elements apart. Side by side is the case that counts:
// the others go through an array, one by one.
template <bool partial, typename T>
MAKEMORE_EXT_INLINE Vec<Compute<T>> load_strided(const T* source, int64_t stride, int64_t count) {
  if (stride == 1) {
    return load_lanes<partial>(source, count, Compute<T>(0));
  }
  T lanes[kLanes<T>];
  for (int64_t lane = 0; lane < count; ++lane) {
    lanes[lane] = source[lane * stride];
  }
  return load_lanes<partial>(static_cast<const T*>(lanes), count, Compute<T>(0));
}

template <bool partial, typename T>
MAKEMORE_EXT_INLINE void store_strided(T* destination, int64_t stride, Vec<Compute<T>> values,
                                       int64_t count) {
  if (stride == 1) {
    return store_lanes<partial>(destination, values, count);
  }
  T lanes[kLanes<T>];
  store(lanes, values);
  for (int64_t lane = 0; lane < count; ++lane) {
    destination[lane * stride] = lanes[lane];
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
