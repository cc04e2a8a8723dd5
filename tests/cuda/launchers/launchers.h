// The launchers of csrc/cuda as C functions: what the tests' ctypes can call.
#pragma once

#include <exception>
#include <string>

#include "arguments.h"
#include "cuda/kernels.h"

// The dtypes as the tests number them.
template <typename T>
inline constexpr int kNumber = 0;
template <>
inline constexpr int kNumber<makemore_ext::BFloat16> = 1;
template <>
inline constexpr int kNumber<float> = 2;
template <>
inline constexpr int kNumber<double> = 3;

inline std::string& last_error() {
  static std::string text;
  return text;
}

// 0, or 1 and the exception's text is what message() gives.
template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    last_error() = error.what();
    return 1;
  }
}

extern "C" int message(char* text, int64_t size) {
  text[last_error().copy(text, static_cast<size_t>(size) - 1)] = 0;
  return 0;
}
