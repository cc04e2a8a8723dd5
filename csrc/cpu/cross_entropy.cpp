#include "cross_entropy.h"

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

void set_cross_entropy(KernelTables& tables) {
  for_each_table(tables, []<typename T>(Kernels<T>& kernels) {
    kernels.cross_entropy_forward = cross_entropy_forward<T>;
    kernels.cross_entropy_backward = cross_entropy_backward<T>;
  });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
