// Large tensors and the caches: reading ahead of them, and writing past them.
//
// What one core moves is limited by the lines it waits for at a time, so that waiting and computing
// should overlap: while what is in the cache is worked on, what comes next is asked for. A store
// that goes through the caches first reads the line that it will overwrite; one past them does not.
#pragma once

#include <cstdint>
#include <cstring>

#ifdef __SSE2__
#include <immintrin.h>
#endif

#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Results of this size or more are written past the caches: they would have left them by the time
// somebody reads them.
inline constexpr int64_t kStreamedBytes = 8 << 20;

// Asks for the line at `address` + `bytes`. It need not belong to anybody.
MAKEMORE_EXT_INLINE void read_ahead(const void* address, int64_t bytes) {
  __builtin_prefetch(static_cast<const char*>(address) + bytes);
}

// What one store() of a vector writes.
template <typename T>
inline constexpr int64_t kStoredBytes = kLanes<T> * static_cast<int64_t>(sizeof(T));

template <typename T>
MAKEMORE_EXT_INLINE bool is_aligned(const T* address) {
  return reinterpret_cast<std::uintptr_t>(address) % kStoredBytes<T> == 0;
}

// Elements up to the next address that is aligned to what one store() writes.
template <typename T>
MAKEMORE_EXT_INLINE int64_t elements_to_alignment(const T* address) {
  const std::uintptr_t past = reinterpret_cast<std::uintptr_t>(address) % kStoredBytes<T>;
  return past == 0 ? 0 : (kStoredBytes<T> - static_cast<int64_t>(past)) / sizeof(T);
}

// store(), past the caches where `streamed`: then `destination` is aligned, and finish_stores()
// comes before another thread reads it.
template <bool streamed, typename T>
MAKEMORE_EXT_INLINE void store_through(T* destination, Vec<Compute<T>> value) {
#ifdef __SSE2__
  if constexpr (streamed && kStoredBytes<T> >= 16) {
    alignas(kStoredBytes<T>) T lanes[kLanes<T>];
    store(lanes, value);
#ifdef __AVX512F__
    if constexpr (kStoredBytes<T> == 64) {
      __m512i bits;
      std::memcpy(&bits, lanes, sizeof(bits));
      return _mm512_stream_si512(reinterpret_cast<__m512i*>(destination), bits);
    }
#endif
#ifdef __AVX__
    if constexpr (kStoredBytes<T> == 32) {
      __m256i bits;
      std::memcpy(&bits, lanes, sizeof(bits));
      return _mm256_stream_si256(reinterpret_cast<__m256i*>(destination), bits);
    }
#endif
    if constexpr (kStoredBytes<T> == 16) {
      __m128i bits;
      std::memcpy(&bits, lanes, sizeof(bits));
      return _mm_stream_si128(reinterpret_cast<__m128i*>(destination), bits);
    }
  }
#endif
  store(destination, value);
}

// Makes what was written past the caches visible before whatever is written next.
MAKEMORE_EXT_INLINE void finish_stores() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
