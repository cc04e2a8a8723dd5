#include "embedding.h"

#include <type_traits>

#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

void set_embedding(KernelTables& tables) {
  for_each_table(tables, []<typename T>(Kernels<T>& kernels) {
    if constexpr (std::is_same_v<T, Compute<T>>) {
      kernels.embedding_backward = embedding_backward<T>;
    }
  });
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
