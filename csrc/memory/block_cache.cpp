#include "block_cache.h"

#include <pthread.h>
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iterator>

#include "../cpu/huge_pages.h"

namespace makemore_ext::memory {

namespace {

constexpr std::size_t kHugePage = cpu::kHugePageThreshold;

constexpr std::uintptr_t round_down(std::uintptr_t value, std::size_t unit) {
  return value / unit * unit;
}

constexpr std::uintptr_t round_up(std::uintptr_t value, std::size_t unit) {
  return round_down(value + unit - 1, unit);
}

void* pointer(std::uintptr_t address) {
  return reinterpret_cast<void*>(address);
}

std::uintptr_t map(std::uintptr_t wanted, std::size_t bytes) {
  void* const memory =
      mmap(pointer(wanted), bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  return memory == MAP_FAILED ? 0 : reinterpret_cast<std::uintptr_t>(memory);
}

// Whole huge pages, or 0 where there is no memory. Below `limit` without a gap if that is free, so
// that what is idle there and above can become one range.
std::uintptr_t map_pages(std::uintptr_t limit, std::size_t bytes) {
  if (limit > bytes) {
    const std::uintptr_t wanted = limit - bytes, begin = map(wanted, bytes);
    if (begin == wanted) {
      cpu::advise_huge_pages(pointer(begin), bytes);
      return begin;
    }
    if (begin != 0) {
      munmap(pointer(begin), bytes);
    }
  }
  const std::uintptr_t mapped = map(0, bytes + kHugePage);
  if (mapped == 0) {
    return 0;
  }
  const std::uintptr_t begin = round_up(mapped, kHugePage), end = begin + bytes;
  if (begin != mapped) {
    munmap(pointer(mapped), begin - mapped);
  }
  munmap(pointer(end), mapped + kHugePage - begin);
  cpu::advise_huge_pages(pointer(begin), bytes);
  return begin;
}

#if defined(MADV_FREE) && defined(MADV_HUGEPAGE)
bool has_huge_pages() {
  std::FILE* const file = std::fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
  char modes[64] = "[never]";
  if (file != nullptr) {
    modes[std::fread(modes, 1, sizeof(modes) - 1, file)] = '\0';
    std::fclose(file);
  }
  return std::strstr(modes, "[never]") == nullptr;
}
#endif

// Lets the system take the pages while nobody uses them. It costs little beside writing huge pages
// again, but a fifth of a step whose results are a few, and as much as writing them for small
// pages, which are left alone therefore.
void offer_pages([[maybe_unused]] std::uintptr_t begin, [[maybe_unused]] std::size_t bytes) {
#if defined(MADV_FREE) && defined(MADV_HUGEPAGE)
  static const bool worthwhile = has_huge_pages();
  const std::uintptr_t first = round_up(begin, kHugePage);
  const std::uintptr_t last = round_down(begin + bytes, kHugePage);
  if (worthwhile && first < last) {
    madvise(pointer(first), last - first, MADV_FREE);
  }
#endif
}

}  // namespace

void* BlockCache::take(std::size_t bytes, Clock::time_point now) {
  if (bytes < kLeastCached || bytes > SIZE_MAX / 2) {
    return nullptr;
  }
  bytes = round_up(bytes, kGranule);
  const std::lock_guard guard(mutex_);
  if (limit_ == 0) {
    return nullptr;
  }
  follow_peak(now);
  // The smallest that fits.
  auto fitting = idle_.lower_bound({bytes, 0});
  const bool found = fitting != idle_.end();
  ++(found ? reused_ : missed_);
  if (!found) {
    if (!map_more(bytes)) {
      return nullptr;
    }
    fitting = idle_.lower_bound({bytes, 0});
  }
  const auto [whole, begin] = *fitting;
  const std::uint64_t given_back = ranges_[begin].given_back;
  remove_idle(begin, whole);
  ranges_[begin] = {bytes, false, 0};
  in_use_bytes_ += bytes;
  window_peak_ = std::max(window_peak_, in_use_bytes_);
  if (whole > bytes) {
    add_idle(begin + bytes, whole - bytes, given_back);
  }
  release(most_idle());
  return pointer(begin);
}

void BlockCache::give_back(void* block, Clock::time_point now) {
  const std::lock_guard guard(mutex_);
  follow_peak(now);
  const auto found = ranges_.find(reinterpret_cast<Address>(block));
  if (found == ranges_.end() || found->second.idle) {
    std::fputs("makemore_ext: a block of memory was given back twice\n", stderr);
    std::abort();
  }
  const auto [begin, range] = *found;
  ranges_.erase(found);
  in_use_bytes_ -= range.bytes;
  if (idle_bytes_ + range.bytes > kKeptIdle) {
    offer_pages(begin, range.bytes);
  }
  add_idle(begin, range.bytes, ++given_back_);
  release(most_idle());
}

void BlockCache::empty() {
  const std::lock_guard guard(mutex_);
  release(0);
}

void BlockCache::set_limit(std::optional<std::size_t> limit) {
  const std::lock_guard guard(mutex_);
  limit_ = limit;
  release(most_idle());
}

CacheInfo BlockCache::info() {
  const std::lock_guard guard(mutex_);
  return {in_use_bytes_, idle_bytes_, peak(), limit_, reused_, missed_};
}

bool BlockCache::map_more(std::size_t bytes) {
  const std::size_t pages = round_up(bytes, kHugePage);
  const auto lowest = [&] {
    return ranges_.empty() ? 0 : round_down(ranges_.begin()->first, kHugePage);
  };
  Address begin = map_pages(lowest(), pages);
  if (begin == 0) {
    release(0);
    begin = map_pages(lowest(), pages);
  }
  if (begin != 0) {
    add_idle(begin, pages, given_back_);
  }
  return begin != 0;
}

// Joined with what is idle beside it.
void BlockCache::add_idle(Address begin, std::size_t bytes, std::uint64_t given_back) {
  const auto after = ranges_.lower_bound(begin);
  if (after != ranges_.begin()) {
    const auto [before, range] = *std::prev(after);
    if (range.idle && before + range.bytes == begin) {
      remove_idle(before, range.bytes);
      begin = before;
      bytes += range.bytes;
      given_back = std::max(given_back, range.given_back);
    }
  }
  if (after != ranges_.end() && after->second.idle && begin + bytes == after->first) {
    const Range more = after->second;
    remove_idle(after->first, more.bytes);
    bytes += more.bytes;
    given_back = std::max(given_back, more.given_back);
  }
  ranges_[begin] = {bytes, true, given_back};
  idle_.emplace(bytes, begin);
  idle_bytes_ += bytes;
}

void BlockCache::remove_idle(Address begin, std::size_t bytes) {
  ranges_.erase(begin);
  idle_.erase({bytes, begin});
  idle_bytes_ -= bytes;
}

// Unmaps what was not used for longest, from the end of a range, in whole huge pages while it has
// some: the rest of one shares it with a block in use.
void BlockCache::release(std::size_t most_idle) {
  const auto is_older = [&](const auto& one, const auto& other) {
    return ranges_[one.second].given_back < ranges_[other.second].given_back;
  };
  while (idle_bytes_ > most_idle) {
    const auto [bytes, begin] = *std::min_element(idle_.begin(), idle_.end(), is_older);
    const std::uint64_t given_back = ranges_[begin].given_back;
    const Address end = begin + bytes;
    Address first = round_up(begin, kHugePage), last = round_down(end, kHugePage);
    if (first < last) {
      const std::size_t excess = round_up(idle_bytes_ - most_idle, kHugePage);
      first = last - std::min<std::size_t>(excess, last - first);
    } else {
      first = begin;
      last = end;
    }
    remove_idle(begin, bytes);
    munmap(pointer(first), last - first);
    if (begin < first) {
      add_idle(begin, first - begin, given_back);
    }
    if (last < end) {
      add_idle(last, end - last, given_back);
    }
  }
}

void BlockCache::follow_peak(Clock::time_point now) {
  const auto elapsed = now - window_start_;
  if (elapsed >= kWindow) {
    previous_peak_ = elapsed < 2 * kWindow ? window_peak_ : 0;
    window_peak_ = in_use_bytes_;
    window_start_ = now;
  }
}

std::size_t BlockCache::peak() const {
  return std::max(previous_peak_, window_peak_);
}

std::size_t BlockCache::most_idle() const {
  return std::min<std::size_t>(limit_.value_or(SIZE_MAX), round_up(peak(), kHugePage));
}

BlockCache& block_cache() {
  // Never destroyed, as tensors may be freed after everything else.
  static BlockCache& cache = []() -> BlockCache& {
    pthread_atfork([] { block_cache().lock(); }, [] { block_cache().unlock(); },
                   [] { block_cache().unlock(); });
    return *new BlockCache;
  }();
  return cache;
}

}  // namespace makemore_ext::memory
