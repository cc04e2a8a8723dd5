// The errors of kernels, all std::out_of_range. Apart from the kernels, which use no std::string:
// its inline members would be built once per instruction set under one name.
#pragma once

#include <cstdint>

namespace makemore_ext::cpu {

[[noreturn]] void throw_target_out_of_range(int64_t target);
[[noreturn]] void throw_argument_out_of_range(const char* name, int64_t index, int64_t limit);

}  // namespace makemore_ext::cpu
