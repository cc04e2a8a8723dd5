// Kernels are built once for each instruction set, in a namespace of its name; calls go to those
// that this processor can run.
//
// What an operation offers is a struct of references to functions, in its kernels.h. Its .cpp,
// which setup.py compiles for each instruction set with the namespace in MAKEMORE_EXT_CAPABILITY,
// defines table() for that struct; kernels() calls it. A struct of references cannot be left with
// an empty place, and a table that no file defines is a missing symbol when the module is loaded.
#pragma once

namespace makemore_ext::cpu {

// From the least to the best.
enum class Capability { baseline, avx2, avx512 };

// The best that this processor has, or what MAKEMORE_EXT_CPU_CAPABILITY asks for.
Capability capability();

// "default", "avx2" or "avx512".
const char* capability_name();

namespace baseline {
template <typename Table>
Table table();
}
#ifdef MAKEMORE_EXT_X86
namespace avx2 {
template <typename Table>
Table table();
}
namespace avx512 {
template <typename Table>
Table table();
}
#endif

template <typename Table>
const Table& kernels() {
  static const Table chosen = [] {
    switch (capability()) {
#ifdef MAKEMORE_EXT_X86
      case Capability::avx512:
        return avx512::table<Table>();
      case Capability::avx2:
        return avx2::table<Table>();
#endif
      default:
        return baseline::table<Table>();
    }
  }();
  return chosen;
}

}  // namespace makemore_ext::cpu
