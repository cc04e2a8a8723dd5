#include "dispatch.h"

#include <cstdlib>
#include <stdexcept>
#include <string>

#ifdef MAKEMORE_EXT_X86
#include <cpuid.h>
#endif

namespace makemore_ext::cpu {

namespace {

constexpr const char* kVariable = "MAKEMORE_EXT_CPU_CAPABILITY";

struct Choice {
  Capability capability;
  const char* name;
  bool available;
};

#ifdef MAKEMORE_EXT_X86
// __builtin_cpu_supports("f16c"), which not every compiler knows.
bool has_f16c() {
  unsigned a, b, c, d;
  return __get_cpuid(1, &a, &b, &c, &d) != 0 && (c & bit_F16C) != 0;
}
#endif

Choice choose() {
  const Choice all[] = {
      {Capability::baseline, "default", true},
#ifdef MAKEMORE_EXT_X86
      {Capability::avx2, "avx2",
       __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c()},
      {Capability::avx512, "avx512",
       __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
           __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") &&
           __builtin_cpu_supports("fma") && has_f16c()},
#endif
  };
  const char* value = std::getenv(kVariable);
  const std::string wanted = value == nullptr ? "" : value;
  const Choice* chosen = nullptr;
  std::string names;
  for (const Choice& choice : all) {
    if (choice.available) {
      names += (names.empty() ? "'" : ", '") + std::string(choice.name) + "'";
      chosen = wanted.empty() || wanted == choice.name ? &choice : chosen;
    }
  }
  if (chosen == nullptr) {
    throw std::invalid_argument(std::string(kVariable) + " must be one of " + names +
                                " on this processor, got '" + wanted + "'");
  }
  return *chosen;
}

const Choice& chosen() {
  static const Choice choice = choose();
  return choice;
}

}  // namespace

Capability capability() {
  return chosen().capability;
}

const char* capability_name() {
  return chosen().name;
}

}  // namespace makemore_ext::cpu
