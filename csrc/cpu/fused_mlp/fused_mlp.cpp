#include "fused_mlp.h"

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <>
FusedMLPKernels<float> table() {
  return FusedMLPKernels<float>{fused_mlp_workspace<float>, fused_mlp_loss_and_gradients<float>,
                                fused_mlp_train<float>};
}
template <>
FusedMLPKernels<double> table() {
  return FusedMLPKernels<double>{fused_mlp_workspace<double>, fused_mlp_loss_and_gradients<double>,
                                 fused_mlp_train<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
