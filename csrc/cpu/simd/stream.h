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

// Elements up to the next address that is a multiple of `bytes`.
template <typename T>
MAKEMORE_EXT_INLINE int64_t elements_to_alignment(const T* address, int64_t bytes) {
  const auto past = static_cast<int64_t>(reinterpret_cast<std::uintptr_t>(address) % bytes);
  return past == 0 ? 0 : (bytes - past) / static_cast<int64_t>(sizeof(T));
}

// A vector of any size, past the caches where `streamed`: then `destination` is aligned to that
// size, and finish_stores() comes before another thread reads it.
template <bool streamed, typename Vector>
MAKEMORE_EXT_INLINE void store_bits(void* destination, Vector bits) {
#ifdef __AVX512F__
  if constexpr (streamed && sizeof(Vector) == 64) {
    return _mm512_stream_si512(static_cast<__m512i*>(destination), bit_cast<__m512i>(bits));
  }
#endif
#ifdef __AVX__
  if constexpr (streamed && sizeof(Vector) == 32) {
    return _mm256_stream_si256(static_cast<__m256i*>(destination), bit_cast<__m256i>(bits));
  }
#endif
#ifdef __SSE2__
  if constexpr (streamed && sizeof(Vector) == 16) {
    return _mm_stream_si128(static_cast<__m128i*>(destination), bit_cast<__m128i>(bits));
  }
#endif
  std::memcpy(destination, &bits, sizeof(bits));
}

// store(), as store_bits() of what it writes.
template <bool streamed, typename T>
MAKEMORE_EXT_INLINE void store_through(T* destination, Vec<Compute<T>> value) {
  if constexpr (streamed) {
    struct Stored {
      T lanes[kLanes<T>];
    } stored;
    store(stored.lanes, value);
    store_bits<true>(destination, stored);
  } else {
    store(destination, value);
  }
}

// store_lanes(), past the caches where a whole vector is `streamed`.
template <bool partial, bool streamed, typename T>
MAKEMORE_EXT_INLINE void store_lanes_through(T* destination, Vec<Compute<T>> value, int64_t count) {
  if constexpr (partial) {
    store_partial(destination, value, count);
  } else {
    store_through<streamed>(destination, value);
  }
}

// Makes what was written past the caches visible before whatever is written next.
MAKEMORE_EXT_INLINE void finish_stores() {
#ifdef __SSE2__
  _mm_sfence();
#endif
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
