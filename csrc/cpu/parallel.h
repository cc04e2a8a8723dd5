// Work cut in pieces for torch's thread pool. A piece's size depends on the shape alone, never on
// the number of threads: that is what makes every result the same bits for any thread count.
#pragma once

#include <algorithm>
#include <cstdint>

namespace makemore_ext::cpu {

using RangeFunction = void (*)(int64_t begin, int64_t end, const void* context);

// Calls function on ranges that cover [0, count), on several threads. Defined in ops/tensors.cpp.
void parallel_for(int64_t count, RangeFunction function, const void* context);

// Elements below which opening a parallel region costs more than it saves.
inline constexpr int64_t kParallelThreshold = 32768;

// What for_each_piece() gives to each thread.
template <typename Body>
struct Pieces {
  int64_t count, piece_size;
  bool backwards;
  const Body& body;

  // Never a part of its caller, which would hold a copy of it for when there is one thread.
  [[gnu::noinline]] static void run(int64_t first, int64_t last, const void* context) {
    const Pieces& pieces = *static_cast<const Pieces*>(context);
    for (int64_t i = first; i < last; ++i) {
      const int64_t piece = pieces.backwards ? first + last - 1 - i : i;
      const int64_t begin = piece * pieces.piece_size;
      pieces.body(piece, begin, std::min(begin + pieces.piece_size, pieces.count));
    }
  }
};

// Calls body(piece, begin, end) for the pieces [begin, end) of [0, count), each piece_size long but
// the last; `elements` is the whole work, which decides whether threads are worth their start. With
// `backwards` each thread begins with its last piece: after a pass over the same pieces, that is
// what its caches hold.
template <typename Body>
void for_each_piece(int64_t count, int64_t piece_size, int64_t elements, const Body& body,
                    bool backwards = false) {
  const Pieces<Body> context{count, piece_size, backwards, body};
  const int64_t pieces = (count + piece_size - 1) / piece_size;
  if (elements < kParallelThreshold || pieces < 2) {
    Pieces<Body>::run(0, pieces, &context);
  } else {
    parallel_for(pieces, Pieces<Body>::run, &context);
  }
}

}  // namespace makemore_ext::cpu
