// The functions of vectors as the rest of the extension sees them: y[i] = f(x[i]).
#pragma once

#include <cstdint>

#include "../../dtypes.h"
#include "../dispatch.h"

namespace makemore_ext::cpu {

// For float and double. What the tests verify element by element.
template <typename T>
struct ElementaryKernels {
  using Function = void(const T* x, T* y, int64_t count);

  Function& exp;
  Function& exp_nonpositive;
  Function& log;
  Function& tanh;
};

// For narrow types, from and to the one they are computed in.
template <typename T>
struct ConversionKernels {
  void (&widen)(const T* x, Compute<T>* y, int64_t count);
  void (&narrow)(const Compute<T>* x, T* y, int64_t count);
};

}  // namespace makemore_ext::cpu
