// The tables of kernels for one instruction set. setup.py compiles this file and those of the
// operations once for each, naming it in MAKEMORE_EXT_CAPABILITY.
#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

KernelTables tables() {
  KernelTables all{};
  set_batch_norm(all);
  set_cross_entropy(all);
  set_elementary(all);
  set_embedding(all);
  set_fused_mlp(all);
  return all;
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
