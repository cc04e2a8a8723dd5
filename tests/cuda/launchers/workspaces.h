// Holds the workspace that an operation asks for against what its launches lead their kernels to:
// launchers are called with addresses where nothing is, and no kernel runs.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>

#include "cudart.h"

// Above every other address that a call is given.
inline constexpr uintptr_t kWorkspaceAddress = uintptr_t{1} << 44;

template <typename T>
T* workspace_at_its_address() {
  return reinterpret_cast<T*>(kWorkspaceAddress);
}

// How far into the workspace the kernels of a call go, in bytes.
inline int64_t reached = 0;
inline void reach(const void* end) {
  reached =
      std::max(reached, static_cast<int64_t>(reinterpret_cast<uintptr_t>(end) - kWorkspaceAddress));
}

// Has `look` see every launch, until the bench is called again.
inline void look_at_launches(decltype(Bench::launch) look) {
  Bench functions{};
  functions.launch = look;
  functions.fill = [](void*, int, size_t, void*) { return 0; };
  bench_set(&functions);
}
