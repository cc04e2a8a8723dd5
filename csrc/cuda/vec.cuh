// Elements of any dtype as kernels work on them: loaded and stored one at a time or 16 bytes at
// once, converted in registers to and from the type that they are computed in.
#pragma once

#include <cstdint>
#include <cstring>
#include <type_traits>

#include "../arguments.h"

namespace makemore_ext::cuda {

// Elements of T in an access of 16 bytes.
template <typename T>
inline constexpr int kLanes = 16 / static_cast<int>(sizeof(T));

__device__ inline float widen(Half x) {
  float result;
  asm("cvt.f32.f16 %0, %1;" : "=f"(result) : "h"(x.bits));
  return result;
}
__device__ inline float widen(BFloat16 x) {
  return __uint_as_float(static_cast<uint32_t>(x.bits) << 16);
}
__device__ inline float widen(float x) {
  return x;
}
__device__ inline double widen(double x) {
  return x;
}

// Rounds to the nearest, to even where two are as near.
template <typename T>
__device__ inline T narrow(Compute<T> x) {
  if constexpr (std::is_same_v<T, Half>) {
    Half result;
    asm("cvt.rn.f16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
    return result;
  } else if constexpr (std::is_same_v<T, BFloat16>) {
    BFloat16 result;
#if __CUDA_ARCH__ >= 800
    asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(result.bits) : "f"(x));
#else
    const uint32_t bits = __float_as_uint(x);
    const uint32_t rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
    result.bits = static_cast<uint16_t>(x == x ? rounded : 0x7fffu);
#endif
    return result;
  } else {
    return x;
  }
}

// `count` neighbours in the type they are computed in: 1, or the kLanes<T> of a 16-byte access, for
// which their address must be a multiple of 16.
template <typename T, int count>
struct Pack {
  Compute<T> lane[count];

  __device__ static Pack load(const T* source) {
    static_assert(count == 1 || count == kLanes<T>);
    Pack result;
    if constexpr (count == 1) {
      result.lane[0] = widen(*source);
    } else {
      const uint4 raw = *reinterpret_cast<const uint4*>(source);
      T elements[count];
      memcpy(elements, &raw, sizeof raw);
#pragma unroll
      for (int i = 0; i < count; ++i) {
        result.lane[i] = widen(elements[i]);
      }
    }
    return result;
  }

  __device__ void store(T* destination) const {
    if constexpr (count == 1) {
      *destination = narrow<T>(lane[0]);
    } else {
      T elements[count];
#pragma unroll
      for (int i = 0; i < count; ++i) {
        elements[i] = narrow<T>(lane[i]);
      }
      uint4 raw;
      memcpy(&raw, elements, sizeof raw);
      __stcg(reinterpret_cast<uint4*>(destination), raw);  // a plain store may be split
    }
  }
};

// How threads share the elements [0, size) of rows that they walk side by side: the `head` first
// and what the vectors leave at the end one by one, and in between `vectors`, aligned in all of the
// rows. Rows that are not aligned alike have no vectors.
struct Split {
  int64_t size;
  int64_t head;
  int64_t vectors;

  MAKEMORE_EXT_HOST_DEVICE static Split one_by_one(int64_t size) { return {size, size, 0}; }

  // With vectors from element `head` on, if the rows are as long.
  template <typename T>
  MAKEMORE_EXT_HOST_DEVICE static Split after(int64_t head, int64_t size) {
    const int64_t in_row = head < size ? head : size;
    return {size, in_row, (size - in_row) / kLanes<T>};
  }

  template <typename T, typename... Others>
  MAKEMORE_EXT_HOST_DEVICE static Split of(int64_t size, const T* row, const Others*... others) {
    static_assert((std::is_same_v<T, Others> && ...));
    const int begin = lane_of(row);
    if (((lane_of(others) != begin) || ...)) {
      return one_by_one(size);
    }
    return after<T>((kLanes<T> - begin) % kLanes<T>, size);
  }

  // Calls body(first element, count) for the share of thread `index` of `threads`; how many
  // elements it is, is a constant: decltype(count)::value.
  template <typename T, typename Body>
  __device__ void for_each(int index, int threads, const Body& body) const {
    constexpr int lanes = kLanes<T>;
    for (int64_t i = index; i < vectors; i += threads) {
      body(head + i * lanes, std::integral_constant<int, lanes>{});
    }
    for (int64_t i = index; i < size - vectors * lanes; i += threads) {
      body(i < head ? i : i + vectors * lanes, std::integral_constant<int, 1>{});
    }
  }

 private:
  // Where an element lies between two multiples of 16 bytes.
  template <typename T>
  MAKEMORE_EXT_HOST_DEVICE static int lane_of(const T* element) {
    return static_cast<int>(reinterpret_cast<uintptr_t>(element) / sizeof(T) % kLanes<T>);
  }
};

}  // namespace makemore_ext::cuda
