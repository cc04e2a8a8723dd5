// What is built once for all instruction sets: the choice among them, and errors.
#include <cstddef>
#include <cstdlib>
#include <iterator>
#include <stdexcept>
#include <string>

#include "kernels.h"

namespace makemore_ext::cpu {

namespace {

constexpr const char* kVariable = "MAKEMORE_EXT_CPU_CAPABILITY";

struct Capability {
  const char* name;
  bool available;
  KernelTables (*tables)();
};

// From the least to the best.
const Capability* capabilities(std::size_t& count) {
  static const Capability all[] = {
      {"default", true, baseline::tables},
#ifdef MAKEMORE_EXT_X86
      {"avx2",
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
           __builtin_cpu_supports("f16c"),
       avx2::tables},
      {"avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && __builtin_cpu_supports("f16c"),
       avx512::tables},
#endif
  };
  count = std::size(all);
  return all;
}

const Capability& choose() {
  std::size_t count = 0;
  const Capability* all = capabilities(count);
  const char* value = std::getenv(kVariable);
  const std::string wanted = value == nullptr ? "" : value;
  const Capability* chosen = nullptr;
  std::string names;
  for (std::size_t i = 0; i < count; ++i) {
    if (all[i].available) {
      names += (names.empty() ? "'" : ", '") + std::string(all[i].name) + "'";
      chosen = wanted.empty() || wanted == all[i].name ? &all[i] : chosen;
    }
  }
  if (chosen == nullptr) {
    throw std::invalid_argument(std::string(kVariable) + " must be one of " + names +
                                " on this processor, got '" + wanted + "'");
  }
  return *chosen;
}

const Capability& chosen() {
  static const Capability& capability = choose();
  return capability;
}

const KernelTables& tables() {
  static const KernelTables tables = chosen().tables();
  return tables;
}

}  // namespace

void throw_target_out_of_range(int64_t target) {
  throw std::out_of_range("Target " + std::to_string(target) + " is out of bounds.");
}

void throw_index_out_of_range(int64_t index, int64_t vocabulary) {
  throw std::out_of_range("index " + std::to_string(index) + " is out of bounds for " +
                          std::to_string(vocabulary) + " embeddings");
}

void throw_argument_out_of_range(const char* name, int64_t index, int64_t limit) {
  throw std::out_of_range(std::string(name) + ": must hold indices in [0, " +
                          std::to_string(limit) + "), got " + std::to_string(index));
}

const char* capability() {
  return chosen().name;
}

template <>
const Kernels<Half>& kernels<Half>() {
  return tables().for_half;
}

template <>
const Kernels<BFloat16>& kernels<BFloat16>() {
  return tables().for_bfloat16;
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
