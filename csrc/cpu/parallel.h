// Work cut in pieces for torch's thread pool. A piece's size depends on the shape alone, never on
// the number of threads: that is what makes every result the same bits for any thread count.
#pragma once

#include <algorithm>
#include <cstdint>

namespace makemore_ext::cpu {

using RangeFunction = void (*)(int64_t begin, int64_t end, const void* context);

// Calls function on ranges that cover [0, count), on several threads. Defined in csrc/ops.cpp.
void parallel_for(int64_t count, RangeFunction function, const void* context);

// Elements below which opening a parallel region costs more than it saves.
inline constexpr int64_t kParallelThreshold = 32768;

// Calls body(piece, begin, end) for the pieces [begin, end) of [0, count), each piece_size long but
// the last; `elements` is the whole work, which decides whether threads are worth their start.
template <typename Body>
void for_each_piece(int64_t count, int64_t piece_size, int64_t elements, const Body& body) {
  struct Context {
    int64_t count, piece_size;
    const Body& body;
  };
  const Context context{count, piece_size, body};
  const RangeFunction run = [](int64_t first, int64_t last, const void* opaque) {
    const Context& c = *static_cast<const Context*>(opaque);
    for (int64_t piece = first; piece < last; ++piece) {
      const int64_t begin = piece * c.piece_size;
      c.body(piece, begin, std::min(begin + c.piece_size, c.count));
    }
  };
  const int64_t pieces = (count + piece_size - 1) / piece_size;
  if (elements < kParallelThreshold || pieces < 2) {
    run(0, pieces, &context);
  } else {
    parallel_for(pieces, run, &context);
  }
}

}  // namespace makemore_ext::cpu
