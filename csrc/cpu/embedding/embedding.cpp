// The gradient of an embedding table C: row v is the sum of the rows of grad_output whose index is
// v, the notebook's double loop over demb with its two loops exchanged (makemore_ext.reference).
// plain.h has it in a few lines; here threads share the work, and each row is one sum.
#include <algorithm>
#include <cstdint>
#include <cstring>

#include "../../arguments.h"
#include "../errors.h"
#include "../parallel.h"
#include "../scratch.h"
#include "../simd/strided.h"
#include "../simd/vec.h"
#include "../simd/wide.h"
#include "kernels.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

inline void check_indices(Vector<const int64_t> indices, int64_t tokens, int64_t vocabulary) {
  for (int64_t token = 0; token < tokens; ++token) {
    if (indices[token] < 0 || indices[token] >= vocabulary) {
      throw_argument_out_of_range("input", indices[token], vocabulary);
    }
  }
}

// The positions of `indices` sorted by value, in order of appearance where values are equal:
// order[first[v] .. first[v + 1]) are those of v. A counting sort, O(tokens + vocabulary).
inline void sort_positions(Vector<const int64_t> indices, int64_t tokens, int64_t vocabulary,
                           int64_t* first, int64_t* order) {
  std::fill(first, first + vocabulary + 2, 0);
  for (int64_t token = 0; token < tokens; ++token) {
    ++first[indices[token] + 2];
  }
  for (int64_t v = 2; v < vocabulary + 2; ++v) {
    first[v] += first[v - 1];
  }
  // first[v + 1] is now where v starts; filling v moves it to where v ends, which is its place.
  for (int64_t token = 0; token < tokens; ++token) {
    order[first[indices[token] + 1]++] = token;
  }
}

// Sixteen bytes at a time, of which the last begin where they must to end with the row: memmove
// takes longer to start than a short row takes.
inline void copy_row(const void* source, void* destination, int64_t bytes) {
  constexpr int64_t kStep = 16;
  constexpr int64_t kLongest = 256;
  if (bytes < kStep || bytes > kLongest) {
    std::memcpy(destination, source, bytes);
    return;
  }
  const char* const from = static_cast<const char*>(source);
  char* const to = static_cast<char*>(destination);
  for (int64_t i = 0; i < bytes - kStep; i += kStep) {
    std::memcpy(to + i, from + i, kStep);
  }
  std::memcpy(to + bytes - kStep, from + bytes - kStep, kStep);
}

// Elements are copied as they are.
template <typename T>
void embedding_forward(Matrix<const T> weight, Vector<const int64_t> indices, Matrix<T> output) {
  const int64_t features = weight.columns;
  check_indices(indices, output.rows, weight.rows);
  if (features == 0) {
    return;  // a result without memory, which memcpy must not be given
  }
  const int64_t tokens_per_piece = std::max<int64_t>(1, 4096 / features);
  for_each_piece(output.rows, tokens_per_piece, output.rows * features,
                 [&](int64_t, int64_t begin, int64_t end) {
                   for (int64_t token = begin; token < end; ++token) {
                     const T* source = weight.row(indices[token]);
                     T* destination = output.row(token);
                     if (weight.column_stride == 1) {
                       copy_row(source, destination, features * sizeof(T));
                       continue;
                     }
                     for (int64_t i = 0; i < features; ++i) {
                       destination[i] = source[i * weight.column_stride];
                     }
                   }
                 });
}

// The sum of some rows of grad_output, of `count` features from `first` on, in order of appearance.
template <bool partial, typename T>
Vec<Compute<T>> sum_rows(Matrix<const T> grad_output, const int64_t* begin, const int64_t* end,
                         int64_t first, int64_t count) {
  const int64_t stride = grad_output.column_stride;
  Wide<Compute<T>> sum;
  for (const int64_t* token = begin; token < end; ++token) {
    const T* const row = grad_output.row(*token) + first * stride;
    sum = sum + Wide<Compute<T>>::from(load_strided<partial>(row, stride, count));
  }
  return narrow(sum);
}

// Each row is one sum, kept in double, so the result depends on neither the threads nor the order
// in which they run.
template <typename T>
void embedding_backward(Matrix<const T> grad_output, Vector<const int64_t> indices,
                        int64_t padding_idx, Matrix<T> grad_weight) {
  const int64_t vocabulary = grad_weight.rows;
  const int64_t features = grad_weight.columns;
  check_indices(indices, grad_output.rows, vocabulary);
  if (features == 0) {
    return;  // a table of any length, as it takes no memory
  }
  Scratch<int64_t> first(vocabulary + 2);
  Scratch<int64_t> order(grad_output.rows);
  sort_positions(indices, grad_output.rows, vocabulary, first.data(), order.data());

  const int64_t elements = (grad_output.rows + vocabulary) * features;
  const int64_t rows_per_piece = std::max<int64_t>(1, 4096 / features);
  for_each_piece(vocabulary, rows_per_piece, elements, [&](int64_t, int64_t begin, int64_t end) {
    for (int64_t v = begin; v < end; ++v) {
      const int64_t* const tokens = order.data() + first.data()[v];
      const int64_t* const last = v == padding_idx ? tokens : order.data() + first.data()[v + 1];
      T* const row = grad_weight.row(v);
      if (tokens == last) {  // of a large table nearly every row
        std::memset(row, 0, features * sizeof(T));
        continue;
      }
      int64_t i = 0;
      for (; i + kLanes<T> <= features; i += kLanes<T>) {
        store(row + i, sum_rows<false>(grad_output, tokens, last, i, kLanes<T>));
      }
      if (i < features) {
        const int64_t count = features - i;
        store_partial(row + i, sum_rows<true>(grad_output, tokens, last, i, count), count);
      }
    }
  });
}

template <>
EmbeddingKernels<Half> table() {
  return EmbeddingKernels<Half>{embedding_forward<Half>, embedding_backward<Half>};
}
template <>
EmbeddingKernels<BFloat16> table() {
  return EmbeddingKernels<BFloat16>{embedding_forward<BFloat16>, embedding_backward<BFloat16>};
}
template <>
EmbeddingKernels<float> table() {
  return EmbeddingKernels<float>{embedding_forward<float>, embedding_backward<float>};
}
template <>
EmbeddingKernels<double> table() {
  return EmbeddingKernels<double>{embedding_forward<double>, embedding_backward<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
