// Temporary memory of a kernel, uninitialised, aligned to a cache line.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Not std::vector: its members would be built once per instruction set under one name, and the
// linker might keep the build that this processor cannot run.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count)
      : data_(static_cast<T*>(std::aligned_alloc(
            kAlignment, round_up(static_cast<std::size_t>(count) * sizeof(T))))) {
    if (data_ == nullptr) {
      throw std::bad_alloc();
    }
  }
  ~Scratch() { std::free(data_); }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() const { return data_; }

 private:
  static constexpr std::size_t kAlignment = 64;
  static std::size_t round_up(std::size_t bytes) { return (bytes / kAlignment + 1) * kAlignment; }

  T* data_;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
