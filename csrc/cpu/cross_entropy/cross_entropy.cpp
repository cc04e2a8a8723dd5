#include "cross_entropy.h"

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

template <>
CrossEntropyKernels<Half> table() {
  return CrossEntropyKernels<Half>{cross_entropy_forward<Half>, cross_entropy_backward<Half>};
}
template <>
CrossEntropyKernels<BFloat16> table() {
  return CrossEntropyKernels<BFloat16>{cross_entropy_forward<BFloat16>,
                                       cross_entropy_backward<BFloat16>};
}
template <>
CrossEntropyKernels<float> table() {
  return CrossEntropyKernels<float>{cross_entropy_forward<float>, cross_entropy_backward<float>};
}
template <>
CrossEntropyKernels<double> table() {
  return CrossEntropyKernels<double>{cross_entropy_forward<double>, cross_entropy_backward<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
