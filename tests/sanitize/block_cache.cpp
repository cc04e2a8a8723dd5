// The cache of blocks by itself: two threads, one of which frees what the other took; its bounds
// after every one of many random calls; what it gives back as time goes by.
#include "../../csrc/memory/block_cache.h"

#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <iterator>
#include <random>
#include <thread>
#include <vector>

namespace {

using namespace makemore_ext::memory;

constexpr std::size_t kMiB = std::size_t{1} << 20;
constexpr Clock::time_point kStart{std::chrono::hours(1)};

void require(bool holds, const char* what) {
  if (!holds) {
    std::printf("not so: %s\n", what);
    std::exit(1);
  }
}

std::int64_t& first_word(void* block) {
  return *static_cast<std::int64_t*>(block);
}

// Blocks taken here are freed there and the other way round, through places that hold one each. A
// block that two had at once would be written by both.
void hand_over(int blocks_of_each) {
  BlockCache& cache = block_cache();
  std::atomic<void*> places[64] = {};
  const auto work = [&](unsigned seed) {
    std::minstd_rand random(seed);
    for (int i = 0; i < blocks_of_each; ++i) {
      void* const block = cache.take(kMiB + random() % (4 * kMiB));
      require(block != nullptr, "there is memory");
      first_word(block) = reinterpret_cast<std::intptr_t>(block) + seed;
      void* const other = places[random() % std::size(places)].exchange(block);
      if (other != nullptr) {
        const std::int64_t owner = first_word(other) - reinterpret_cast<std::intptr_t>(other);
        require(owner == 1 || owner == 2, "a block keeps what is written to it");
        first_word(other) = 0;
        cache.give_back(other);
      }
    }
  };
  std::thread one(work, 1), two(work, 2);
  one.join();
  two.join();
  for (auto& place : places) {
    if (place != nullptr) {
      cache.give_back(place);
    }
  }
  require(cache.info().in_use == 0, "all blocks came back");
  require(cache.info().reused > cache.info().missed, "blocks are used again");
}

void keep_bounds() {
  BlockCache cache;
  std::minstd_rand random(3);
  struct Block {
    char* begin;
    std::size_t bytes;
  };
  std::vector<Block> alive;
  std::size_t peak = 0;
  for (int i = 0; i < 20000; ++i) {
    if (i % 5000 == 0) {
      cache.set_limit(i == 0 ? std::nullopt : std::optional(random() % (64 * kMiB) + 1));
    }
    if (alive.empty() || (alive.size() < 30 && random() % 2 == 0)) {
      const std::size_t bytes = kMiB + random() % (20 * kMiB);
      auto* const begin = static_cast<char*>(cache.take(bytes, kStart));
      for (const Block& other : alive) {
        require(begin + bytes <= other.begin || other.begin + other.bytes <= begin,
                "no two blocks share memory");
      }
      begin[0] = begin[bytes - 1] = 1;
      alive.push_back({begin, bytes});
    } else {
      std::swap(alive[random() % alive.size()], alive.back());
      cache.give_back(alive.back().begin, kStart);
      alive.pop_back();
    }
    std::size_t in_use = 0;
    for (const Block& block : alive) {
      in_use += (block.bytes + kGranule - 1) / kGranule * kGranule;
    }
    peak = std::max(peak, in_use);
    const CacheInfo info = cache.info();
    require(info.in_use == in_use && info.peak == peak, "bytes in use are those of the blocks");
    require(info.idle <= std::min(peak + 2 * kMiB, info.limit.value_or(SIZE_MAX)),
            "idle bytes keep the bound");
  }
  for (const Block& block : alive) {
    cache.give_back(block.begin, kStart);
  }
  cache.empty();
  require(cache.info().idle == 0 && cache.info().in_use == 0, "an empty cache holds nothing");
}

void forget_a_peak() {
  BlockCache cache;
  void* const large = cache.take(64 * kMiB, kStart);
  cache.give_back(large, kStart);
  require(cache.info().idle == 64 * kMiB, "what was in use is kept");
  for (int window = 1; window <= 2; ++window) {
    const auto now = kStart + window * kWindow;
    cache.give_back(cache.take(2 * kMiB, now), now);
  }
  require(cache.info().idle == 2 * kMiB, "what was idle for two windows is given back");
  cache.empty();
}

// What smaller results left behind, apart from all else, does not cost larger ones their blocks.
void settle() {
  BlockCache cache;
  void* const small[] = {cache.take(4 * kMiB), cache.take(4 * kMiB)};
  const long page = sysconf(_SC_PAGESIZE);
  void* const below = static_cast<char*>(*std::min_element(small, small + 2)) - page;
  void* const apart =
      mmap(below, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
  cache.give_back(small[0]);
  cache.give_back(small[1]);
  for (int step = 0; step < 8; ++step) {
    void* const large[] = {cache.take(16 * kMiB), cache.take(16 * kMiB)};
    cache.give_back(large[0]);
    cache.give_back(large[1]);
  }
  require(cache.info().missed <= 6, "steps of the same sizes find their blocks");
  cache.empty();
  if (apart != MAP_FAILED) {  // else something else keeps them apart
    munmap(apart, page);
  }
}

void do_without() {
  BlockCache cache;
  require(cache.take(kLeastCached - 1) == nullptr, "small blocks are not the cache's");
  require(cache.take(SIZE_MAX) == nullptr, "no system has as much");
  void* const block = cache.take(kMiB);
  cache.set_limit(0);
  require(cache.take(kMiB) == nullptr, "a limit of 0 turns the cache off");
  cache.give_back(block);
  require(cache.info().idle == 0, "and nothing stays idle");
}

// A child can free and take, whatever other threads did when it was made.
void fork_amid_calls() {
  BlockCache& cache = block_cache();
  void* const block = cache.take(3 * kMiB);
  std::atomic<bool> done = false;
  std::thread other([&] {
    while (!done) {
      cache.give_back(cache.take(kMiB));
    }
  });
  for (int i = 0; i < 50; ++i) {
    const pid_t child = fork();
    if (child == 0) {
      cache.give_back(block);
      cache.give_back(cache.take(2 * kMiB));
      _exit(0);
    }
    int status = 1;
    require(waitpid(child, &status, 0) == child && status == 0, "a child uses the cache");
  }
  done = true;
  other.join();
  cache.give_back(block);
}

}  // namespace

int main(int argc, char** argv) {
  hand_over(argc > 1 ? std::atoi(argv[1]) : 500'000);
  keep_bounds();
  forget_a_peak();
  settle();
  do_without();
  fork_amid_calls();
  std::printf("no error\n");
}
