// Memory of large results on the CPU, used again: a block that a result gave back serves the next,
// where the system would have to unmap, map and clear its pages on every step.
//
// Blocks are cut from mappings that are aligned to huge pages and backed by them where the system
// allows; neighbours that are idle are one range again. A block is less than kGranule larger than
// what was asked for, an eighth at most.
//
// Bytes that are idle never exceed the most that were in use at once lately (kWindow), rounded up
// to huge pages, nor the limit: what a peak needed goes back to the system when peaks have become
// lower. Before that the system may take idle huge pages, all but kKeptIdle, whenever it is short
// of memory (MADV_FREE).
#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <map>
#include <mutex>
#include <optional>
#include <set>
#include <utility>

namespace makemore_ext::memory {

inline constexpr std::size_t kLeastCached = std::size_t{1} << 20;
inline constexpr std::size_t kGranule = kLeastCached / 8;
inline constexpr std::size_t kKeptIdle = std::size_t{64} << 20;
// Peaks are those of the current and the previous window. No step is so long that page faults
// after it count.
inline constexpr std::chrono::seconds kWindow{10};

using Clock = std::chrono::steady_clock;

struct CacheInfo {
  std::size_t in_use, idle, peak;
  std::optional<std::size_t> limit;
  std::uint64_t reused, missed;
};

class BlockCache {
 public:
  // Uninitialised memory for this thread alone until it is given back; null where there is none to
  // be had, or where the system's allocator serves better: for less than kLeastCached, or with a
  // limit of 0.
  void* take(std::size_t bytes, Clock::time_point now = Clock::now());
  void give_back(void* block, Clock::time_point now = Clock::now());

  // Gives all that is idle to the system.
  void empty();
  // Of the bytes that may be idle; none leaves it to the peak.
  void set_limit(std::optional<std::size_t> limit);
  CacheInfo info();

  // Around fork(): a child finds the cache as no thread has it half changed.
  void lock() { mutex_.lock(); }
  void unlock() { mutex_.unlock(); }

 private:
  struct Range {
    std::size_t bytes;
    bool idle;
    std::uint64_t given_back;  // the how manieth time, of the latest of its blocks
  };
  using Address = std::uintptr_t;

  std::mutex mutex_;
  // Every byte that is mapped is in one of them: what is in use cannot be idle too.
  std::map<Address, Range> ranges_;
  std::set<std::pair<std::size_t, Address>> idle_;
  std::size_t in_use_bytes_ = 0, idle_bytes_ = 0;
  std::optional<std::size_t> limit_;
  std::uint64_t reused_ = 0, missed_ = 0, given_back_ = 0;
  Clock::time_point window_start_{};
  std::size_t window_peak_ = 0, previous_peak_ = 0;

  bool map_more(std::size_t bytes);
  void add_idle(Address begin, std::size_t bytes, std::uint64_t given_back);
  void remove_idle(Address begin, std::size_t bytes);
  void release(std::size_t most_idle);
  void follow_peak(Clock::time_point now);
  std::size_t peak() const;
  std::size_t most_idle() const;
};

// The cache of the process, which outlives every tensor.
BlockCache& block_cache();

}  // namespace makemore_ext::memory
