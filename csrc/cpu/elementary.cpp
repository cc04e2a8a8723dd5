#include "elementary.h"

#include <cstdint>
#include <type_traits>

#include "kernels.h"
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

}  // namespace

void set_elementary(KernelTables& tables) {
  for_each_table(tables, []<typename T>(Kernels<T>& kernels) {
    using C = Compute<T>;
    kernels.widen = map<T, C, identity<C>>;
    kernels.narrow = map<C, T, identity<C>>;
    if constexpr (std::is_same_v<T, C>) {
      kernels.exp = map<T, T, exp<T>>;
      kernels.exp_nonpositive = map<T, T, exp_nonpositive<T>>;
      kernels.log = map<T, T, log<T>>;
      kernels.tanh = map<T, T, tanh<T>>;
    }
  });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
