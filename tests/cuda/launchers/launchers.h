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

inline std::string& message() {
  static std::string text;
  return text;
}

// 0, or 1 with the exception's text in message().
template <typename Body>
int guarded(const Body& body) {
  try {
    body();
    return 0;
  } catch (const std::exception& error) {
    message() = error.what();
    return 1;
  }
}

extern "C" const char* last_message() {
  return message().c_str();
}
