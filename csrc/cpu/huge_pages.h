// Large memory that is written for the first time, in pages of 2 MiB instead of 4 KiB: the system's
// first touch of 512 small pages costs several times what the kernel that writes them does.
#pragma once

#include <cstddef>
#include <cstdint>

#ifdef __linux__
#include <sys/mman.h>
#endif

namespace makemore_ext::cpu {

// Below, no huge page fits.
inline constexpr std::size_t kHugePageThreshold = std::size_t{2} << 20;

// Advice alone: a system that does not take it, or not now, loses nothing.
inline void advise_huge_pages([[maybe_unused]] void* data, [[maybe_unused]] std::size_t bytes) {
#ifdef MADV_HUGEPAGE
  constexpr std::uintptr_t kPage = 4096;
  if (bytes >= kHugePageThreshold) {
    const std::uintptr_t begin =
        (reinterpret_cast<std::uintptr_t>(data) + kPage - 1) / kPage * kPage;
    const std::uintptr_t end = (reinterpret_cast<std::uintptr_t>(data) + bytes) / kPage * kPage;
    madvise(reinterpret_cast<void*>(begin), end - begin, MADV_HUGEPAGE);
  }
#endif
}

}  // namespace makemore_ext::cpu
