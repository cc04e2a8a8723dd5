// Memory that is written for the first time. The system hands it out page by page, at the first
// touch of each, which costs several times what the kernel that writes them does.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

#include "../cpu/parallel.h"

namespace makemore_ext {

// Asks for the pages of [data, data + bytes) all at once, on several threads, and for pages of 2
// MiB instead of 4 KiB where one fits. Advice alone: a system that does not take it, or not now,
// loses nothing.
inline void prepare_fresh_memory([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#if defined(MADV_HUGEPAGE) && defined(MADV_POPULATE_WRITE)
  constexpr std::size_t kPage = 4096;
  constexpr std::size_t kHugePage = std::size_t{2} << 20;
  constexpr std::size_t kWorthwhile = std::size_t{128} << 10;
  if (bytes < kWorthwhile) {
    return;
  }
  const std::uintptr_t begin = (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
  const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kPage * kPage;
  const auto page = [](std::uintptr_t address) { return reinterpret_cast<void*>(address); };
  // Memory that was used before is there already: the first and the last page tell.
  const auto is_there = [&](std::uintptr_t address) {
    unsigned char state = 1;
    return mincore(page(address), kPage, &state) != 0 || (state & 1) != 0;
  };
  if (is_there(begin) && is_there(end - kPage)) {
    return;
  }
  if (bytes >= kHugePage) {
    madvise(page(begin), end - begin, MADV_HUGEPAGE);
  }
  const auto pages = static_cast<int64_t>((end - begin) / kPage);
  cpu::for_each_piece(
      pages, kHugePage / kPage, pages * kPage, [&](int64_t, int64_t first, int64_t last) {
        const auto at = begin + static_cast<std::uintptr_t>(first) * kPage;
        madvise(page(at), static_cast<std::size_t>(last - first) * kPage, MADV_POPULATE_WRITE);
      });
#endif
}

}  // namespace makemore_ext
