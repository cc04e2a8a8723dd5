#include "errors.h"

#include <stdexcept>
#include <string>

namespace makemore_ext::cpu {

void throw_target_out_of_range(int64_t target) {
  throw std::out_of_range("Target " + std::to_string(target) + " is out of bounds.");
}

void throw_argument_out_of_range(const char* name, int64_t index, int64_t limit) {
  throw std::out_of_range(std::string(name) + " must hold indices in [0, " + std::to_string(limit) +
                          "), got " + std::to_string(index));
}

}  // namespace makemore_ext::cpu
