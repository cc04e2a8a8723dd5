#include "elementary.h"

#include <cstdint>

#include "elementary_kernels.h"
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

template <typename T>
ElementaryKernels<T> elementary_kernels() {
  return {map<T, T, exp<T>>, map<T, T, exp_nonpositive<T>>, map<T, T, log<T>>, map<T, T, tanh<T>>};
}

template <typename T>
ConversionKernels<T> conversion_kernels() {
  using C = Compute<T>;
  return {map<T, C, identity<C>>, map<C, T, identity<C>>};
}

template <>
ElementaryKernels<float> table() {
  return elementary_kernels<float>();
}
template <>
ElementaryKernels<double> table() {
  return elementary_kernels<double>();
}
template <>
ConversionKernels<Half> table() {
  return conversion_kernels<Half>();
}
template <>
ConversionKernels<BFloat16> table() {
  return conversion_kernels<BFloat16>();
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
