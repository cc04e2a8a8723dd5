#include "fused_mlp.h"

#include <type_traits>

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

void set_fused_mlp(KernelTables& tables) {
  for_each_table(tables, []<typename T>(Kernels<T>& kernels) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
      kernels.fused_mlp_workspace = fused_mlp_workspace<T>;
      kernels.fused_mlp_loss_and_gradients = fused_mlp_loss_and_gradients<T>;
      kernels.fused_mlp_train = fused_mlp_train<T>;
    }
  });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
