// What is built once for all instruction sets: the choice among them, and errors.
#include <cstdlib>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace makemore_ext::cpu {

namespace {

constexpr const char* kVariable = "MAKEMORE_EXT_CPU_CAPABILITY";

bool has_avx2() {
#ifdef MAKEMORE_EXT_HAS_AVX2_BUILD
  return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
#else
  return false;
#endif
}

bool choose_avx2() {
  const char* value = std::getenv(kVariable);
  const std::string wanted = value == nullptr ? "" : value;
  if (wanted.empty()) {
    return has_avx2();
  }
  if (wanted == "default") {
    return false;
  }
  if (wanted != "avx2") {
    throw std::invalid_argument(std::string(kVariable) + " must be 'default' or 'avx2', got '" +
                                wanted + "'");
  }
  if (!has_avx2()) {
    throw std::invalid_argument(std::string(kVariable) +
                                "='avx2', but this processor or this build has no AVX2 and FMA");
  }
  return true;
}

bool use_avx2() {
  static const bool chosen = choose_avx2();
  return chosen;
}

const KernelTables& tables() {
#ifdef MAKEMORE_EXT_HAS_AVX2_BUILD
  return use_avx2() ? avx2::tables : baseline::tables;
#else
  return baseline::tables;
#endif
}

}  // namespace

void throw_target_out_of_range(int64_t target) {
  throw std::out_of_range("Target " + std::to_string(target) + " is out of bounds.");
}

void throw_index_out_of_range(int64_t index, int64_t vocabulary) {
  throw std::out_of_range("index " + std::to_string(index) + " is out of bounds for " +
                          std::to_string(vocabulary) + " embeddings");
}

const char* capability() {
  return use_avx2() ? "avx2" : "default";
}

template <>
const Kernels<float>& kernels<float>() {
  return tables().for_float;
}

template <>
const Kernels<double>& kernels<double>() {
  return tables().for_double;
}

}  // namespace makemore_ext::cpu
