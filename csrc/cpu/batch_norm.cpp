#include "batch_norm.h"

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

void set_batch_norm(KernelTables& tables) {
  for_each_table(tables, []<typename T>(Kernels<T>& kernels) {
    kernels.batch_norm_forward = batch_norm_forward<T>;
    kernels.batch_norm_backward = batch_norm_backward<T>;
  });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
