// Temporary memory of a kernel, uninitialised, aligned to a cache line.
#pragma once

#include <cstdint>
#include <cstdlib>
#include <new>

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Not std::vector: its members would be built once per instruction set under one name, and the
// linker might keep the build that this processor cannot run. Little memory is a part of the
// object, which lives on the stack: asking for it takes as long as a small kernel.
template <typename T>
class Scratch {
 public:
  explicit Scratch(int64_t count) : data_(fits(count) ? within_ : allocate(count)) {}
  ~Scratch() {
    if (data_ != within_) {
      std::free(data_);
    }
  }
  Scratch(const Scratch&) = delete;
  Scratch& operator=(const Scratch&) = delete;

  T* data() const { return data_; }

 private:
  static constexpr std::size_t kAlignment = 64;
  static constexpr int64_t kMostElements = (INT64_MAX - kAlignment) / sizeof(T);
  static constexpr int64_t kElementsWithin = 16384 / sizeof(T);

  static bool fits(int64_t count) { return count <= kElementsWithin; }
  static T* allocate(int64_t count) {
    const std::size_t bytes = (count * sizeof(T) / kAlignment + 1) * kAlignment;
    void* const memory = count > kMostElements ? nullptr : std::aligned_alloc(kAlignment, bytes);
    if (memory == nullptr) {
      throw std::bad_alloc();
    }
    return static_cast<T*>(memory);
  }

  alignas(kAlignment) T within_[kElementsWithin];
  T* data_;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
