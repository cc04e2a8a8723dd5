// The table of kernels for one instruction set. setup.py compiles this file once for each, naming
// it in MAKEMORE_EXT_CAPABILITY.
#include "kernels.h"

#include <type_traits>

#include "batch_norm.h"
#include "cross_entropy.h"
#include "elementary.h"
#include "embedding.h"
#include "fused_mlp.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

namespace {

template <typename From, typename To, Vec<Compute<From>> function(Vec<Compute<From>>)>
void map(const From* x, To* y, int64_t count) {
  constexpr int64_t lanes = kLanes<From>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    store(y + i, function(load(x + i)));
  }
  if (i < count) {
    store_partial(y + i, function(load_partial(x + i, count - i, 0)), count - i);
  }
}

template <typename T>
Vec<T> identity(Vec<T> x) {
  return x;
}

template <typename T>
constexpr Kernels<T> make_kernels() {
  using C = Compute<T>;
  Kernels<T> kernels{};
  kernels.cross_entropy_forward = cross_entropy_forward<T>;
  kernels.cross_entropy_backward = cross_entropy_backward<T>;
  kernels.batch_norm_forward = batch_norm_forward<T>;
  kernels.batch_norm_backward = batch_norm_backward<T>;
  kernels.widen = map<T, C, identity<C>>;
  kernels.narrow = map<C, T, identity<C>>;
  if constexpr (std::is_same_v<T, C>) {
    kernels.embedding_backward = embedding_backward<T>;
    kernels.fused_mlp_workspace = fused_mlp_workspace<T>;
    kernels.fused_mlp_loss_and_gradients = fused_mlp_loss_and_gradients<T>;
    kernels.fused_mlp_train = fused_mlp_train<T>;
    kernels.exp = map<T, T, exp<T>>;
    kernels.exp_nonpositive = map<T, T, exp_nonpositive<T>>;
    kernels.log = map<T, T, log<T>>;
    kernels.tanh = map<T, T, tanh<T>>;
  }
  return kernels;
}

}  // namespace

extern const KernelTables tables = {make_kernels<Half>(), make_kernels<BFloat16>(),
                                    make_kernels<float>(), make_kernels<double>()};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
