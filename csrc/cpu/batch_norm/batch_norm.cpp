#include "batch_norm.h"

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <>
BatchNormKernels<Half> table() {
  return BatchNormKernels<Half>{batch_norm_forward<Half>, batch_norm_backward<Half>};
}
template <>
BatchNormKernels<BFloat16> table() {
  return BatchNormKernels<BFloat16>{batch_norm_forward<BFloat16>, batch_norm_backward<BFloat16>};
}
template <>
BatchNormKernels<float> table() {
  return BatchNormKernels<float>{batch_norm_forward<float>, batch_norm_backward<float>};
}
template <>
BatchNormKernels<double> table() {
  return BatchNormKernels<double>{batch_norm_forward<double>, batch_norm_backward<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
