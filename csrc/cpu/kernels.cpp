// The table of kernels for one instruction set. setup.py compiles this file once for each, naming
// it in MAKEMORE_EXT_CAPABILITY.
#include "kernels.h"

#include "batch_norm.h"
#include "cross_entropy.h"
#include "embedding.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

namespace {

template <typename T, Vec<T> function(Vec<T>)>
void map(const T* x, T* y, int64_t count) {
  int64_t i = 0;
  for (; i + kLanes<T> <= count; i += kLanes<T>) {
    store(y + i, function(load(x + i)));
  }
  if (i < count) {
    store_partial(y + i, function(load_partial(x + i, count - i, T(0))), count - i);
  }
}

template <typename T>
constexpr Kernels<T> make_kernels() {
  return {
      .cross_entropy_forward = cross_entropy_forward<T>,
      .cross_entropy_backward = cross_entropy_backward<T>,
      .batch_norm_forward = batch_norm_forward<T>,
      .batch_norm_backward = batch_norm_backward<T>,
      .embedding_backward = embedding_backward<T>,
      .exp = map<T, exp<T>>,
      .tanh = map<T, tanh<T>>,
  };
}

}  // namespace

extern const KernelTables tables = {make_kernels<float>(), make_kernels<double>()};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
