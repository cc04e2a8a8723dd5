// Training steps of the network
//
//   embedding C -> linear W1, b1 -> batch norm bngain, bnbias -> tanh -> linear W2, b2
//
// under the mean cross entropy, by stochastic gradient descent. V characters, K of them in a
// context, D embedding dimensions, H hidden units, n windows in a minibatch.
//
// The first linear layer sees only rows of C. With W1_k the rows of W1 that belong to position k of
// the context, and S[k, v] = C[v] W1_k for the characters v that occur there ("slots", below),
//
//   hprebn[i] = b1 + sum_k S[k, x[i, k]]
//
// costs D multiplications for a slot and unit instead of for a window and unit, and there are fewer
// slots than n K since characters repeat. Backward, the other way round:
//
//   dS[k, v] = sum of dhprebn[i] over i with x[i, k] = v
//   dW1_k = sum_v C[v]^T dS[k, v],   dC[v] = sum_k dS[k, v] W1_k^T
//
// b1 moves the mean of hprebn, which batch norm subtracts: its gradient is 0.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>

#include "fused_mlp_layers.h"
#include "gemm.h"
#include "kernels.h"
#include "parallel.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Everything a step computes, in one piece of memory. Matrices that multiply() writes are padded.
template <typename T>
struct Workspace {
  Matrix<T> embedding;                  // [slots, D], C[v] of each slot
  Matrix<T> table;                      // [slots, H], S and then dS
  Matrix<T> centred;                    // [n, H], hprebn less the mean of each column
  Matrix<T> h;                          // [n, H]
  Matrix<T> dh;                         // [n, H]
  Matrix<T> logits;                     // [n, V], and then their gradient; -inf in the padding
  Matrix<T> dembedding;                 // [slots, D]
  Matrix<T> gradients[kMLPParameters];  // vectors as matrices of one row; that of b1 stays 0
  T* b1;                                // [H], padded with 0; so are the next two
  T* bngain;                            // [H]
  T* bnbias;                            // [H]
  T* b2;                                // [V], padded with -inf
  double* invstd;                       // [H]
  double* losses;                       // [n]
  int32_t* slot;                        // [n, K], the slot of each window's character
  int32_t* slot_of;                     // [K, V], 1 + slot while a step runs, 0 where there is none
  int64_t* character;                   // [slots]
  int64_t* first_slot;                  // [K + 1], position k has the slots from first_slot[k] on
  int64_t* target;                      // [n]
  int64_t bytes;

  // Lays the arrays out from `memory` on, which is aligned to a cache line; null only counts bytes.
  Workspace(const MLPSizes& sizes, int64_t n, std::byte* memory) : bytes(0) {
    const auto [V, K, D, H] = sizes;
    const int64_t slots = K * std::min(n, V);
    const auto take = [&]<typename U>(U*& array, int64_t count) {
      array = memory == nullptr ? nullptr : reinterpret_cast<U*>(memory + bytes);
      bytes += round_up(count * static_cast<int64_t>(sizeof(U)), 64);
    };
    const auto take_matrix = [&](Matrix<T>& matrix, int64_t rows, int64_t columns) {
      const int64_t stride = padded_stride<T>(columns);
      matrix = {nullptr, rows, columns, stride, 1};
      take(matrix.data, rows * stride);
    };
    take_matrix(embedding, slots, D);
    take_matrix(table, slots, H);
    take_matrix(centred, n, H);
    take_matrix(h, n, H);
    take_matrix(dh, n, H);
    take_matrix(logits, n, V);
    take_matrix(dembedding, slots, D);
    take_matrix(gradients[kC], V, D);
    take_matrix(gradients[kW1], K * D, H);
    take_matrix(gradients[kB1], 1, H);
    take_matrix(gradients[kW2], H, V);
    take_matrix(gradients[kB2], 1, V);
    take_matrix(gradients[kBngain], 1, H);
    take_matrix(gradients[kBnbias], 1, H);
    take(b1, padded<T>(H));
    take(bngain, padded<T>(H));
    take(bnbias, padded<T>(H));
    take(b2, padded<T>(V));
    take(invstd, padded<T>(H));
    take(losses, n);
    take(slot, K * n);
    take(slot_of, K * V);
    take(character, slots);
    take(first_slot, K + 1);
    take(target, n);
  }
};

template <typename T>
Matrix<const T> transposed(const Matrix<const T>& m) {
  return {m.data, m.columns, m.rows, m.column_stride, m.row_stride};
}

// A matrix of the workspace to read, with its padding.
template <typename T>
Matrix<const T> with_padding(const Matrix<T>& m) {
  return {m.data, m.rows, padded<T>(m.columns), m.row_stride, m.column_stride};
}

template <typename T>
Matrix<const T> read_only(const Matrix<T>& m) {
  return {m.data, m.rows, m.columns, m.row_stride, m.column_stride};
}

// destination += source, for whole vectors.
template <typename T>
inline void add_to(T* destination, const T* source, int64_t count) {
  for (int64_t j = 0; j < count; j += kLanes<T>) {
    store(destination + j, load(destination + j) + load(source + j));
  }
}

// A step on one minibatch size, in the workspace.
template <typename T>
class MLPStep {
 public:
  explicit MLPStep(const MLPTask<T>& task)
      : V(task.sizes.vocabulary),
        K(task.sizes.context),
        D(task.sizes.embedding),
        H(task.sizes.hidden),
        n(task.batch_size),
        task(task),
        w(task.sizes, n, static_cast<std::byte*>(task.workspace)) {}

  // The loss of windows x[minibatch[i]], y[minibatch[i]]; leaves their gradients in gradients().
  T loss_and_gradients(const int64_t* minibatch) const {
    find_slots(minibatch);
    forward();
    const double loss = cross_entropy();
    backward();
    forget_slots();
    return static_cast<T>(loss);
  }

  // Has the memory fetch a minibatch's windows meanwhile: they are spread over the whole set.
  void prefetch(const int64_t* minibatch) const {
    for (int64_t i = 0; i < n; ++i) {
      __builtin_prefetch(task.x + minibatch[i] * K);
      __builtin_prefetch(task.y + minibatch[i]);
    }
  }

  const Matrix<T>* gradients() const { return w.gradients; }

 private:
  const int64_t V, K, D, H, n;
  const MLPTask<T>& task;
  const Workspace<T> w;

  Matrix<const T> W1(int64_t k) const { return {task.parameters[kW1] + k * D * H, D, H, H, 1}; }
  Matrix<const T> W2() const { return {task.parameters[kW2], H, V, V, 1}; }

  // Rows of a matrix over slots that belong to position k.
  Matrix<T> at_position(const Matrix<T>& m, int64_t k) const {
    const int64_t first = w.first_slot[k];
    return {m.row(first), w.first_slot[k + 1] - first, m.columns, m.row_stride, 1};
  }

  void find_slots(const int64_t* minibatch) const {
    int32_t slots = 0;
    for (int64_t k = 0; k < K; ++k) {
      w.first_slot[k] = slots;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t v = task.x[minibatch[i] * K + k];
        int32_t& slot = w.slot_of[k * V + v];
        if (slot == 0) {
          w.character[slots] = v;
          std::copy_n(task.parameters[kC] + v * D, D, w.embedding.row(slots));
          slot = ++slots;
        }
        w.slot[i * K + k] = slot - 1;
      }
    }
    w.first_slot[K] = slots;
    for (int64_t i = 0; i < n; ++i) {
      w.target[i] = task.y[minibatch[i]];
    }
  }

  void forget_slots() const {
    for (int64_t k = 0; k < K; ++k) {
      for (int64_t slot = w.first_slot[k]; slot < w.first_slot[k + 1]; ++slot) {
        w.slot_of[k * V + w.character[slot]] = 0;
      }
    }
  }

  HiddenLayer<T> hidden_layer() const {
    return {w.slot,
            K,
            w.table,
            w.centred,
            w.h,
            w.dh,
            w.b1,
            w.bngain,
            w.bnbias,
            w.invstd,
            w.gradients[kBngain].data,
            w.gradients[kBnbias].data};
  }

  // Calls body(first column) for every panel of the hidden layer.
  template <typename Body>
  void for_each_panel(const Body& body) const {
    for_each_piece(padded<T>(H), kPanel<T>, n * H,
                   [&](int64_t, int64_t column, int64_t) { body(column); });
  }

  void forward() const {
    std::copy_n(task.parameters[kB1], H, w.b1);
    std::copy_n(task.parameters[kBngain], H, w.bngain);
    std::copy_n(task.parameters[kBnbias], H, w.bnbias);
    std::copy_n(task.parameters[kB2], V, w.b2);
    std::fill(w.b2 + V, w.b2 + padded<T>(V), -std::numeric_limits<T>::infinity());
    for (int64_t k = 0; k < K; ++k) {
      multiply<T>(read_only(at_position(w.embedding, k)), W1(k), nullptr, at_position(w.table, k));
    }
    const HiddenLayer<T> layer = hidden_layer();
    for_each_panel([&](int64_t column) { hidden_forward<T>(layer, column); });
    multiply<T>(read_only(w.h), W2(), w.b2, w.logits);
  }

  double cross_entropy() const {
    for_each_piece(n, kLossRows, n * V, [&](int64_t, int64_t begin, int64_t end) {
      cross_entropy_rows<T>(w.logits, w.target, begin, end, w.losses);
    });
    double sum = 0;
    for (int64_t i = 0; i < n; ++i) {
      sum += w.losses[i];
    }
    return sum / static_cast<double>(n);
  }

  void backward() const {
    const Matrix<T>& dlogits = w.logits;
    multiply<T>(transposed(read_only(w.h)), with_padding(dlogits), nullptr, w.gradients[kW2]);
    sum_rows(dlogits, w.gradients[kB2].data);
    multiply<T>(read_only(dlogits), transposed(W2()), nullptr, w.dh);
    const HiddenLayer<T> layer = hidden_layer();
    const int64_t slots = w.first_slot[K];
    for_each_panel([&](int64_t column) { hidden_backward<T>(layer, slots, column); });

    const Matrix<T>& dC = w.gradients[kC];
    const Matrix<T>& dW1 = w.gradients[kW1];
    std::fill_n(dC.data, V * dC.row_stride, T(0));
    for (int64_t k = 0; k < K; ++k) {
      const Matrix<T> dtable = at_position(w.table, k);
      multiply<T>(transposed(read_only(at_position(w.embedding, k))), with_padding(dtable), nullptr,
                  {dW1.row(k * D), D, H, dW1.row_stride, 1});
      multiply<T>(read_only(dtable), transposed(W1(k)), nullptr, at_position(w.dembedding, k));
    }
    for (int64_t slot = 0; slot < slots; ++slot) {
      add_to(dC.row(w.character[slot]), w.dembedding.row(slot), padded<T>(D));
    }
  }
};

// parameter -= lr (momentum_buffer <- momentum momentum_buffer + gradient + weight_decay parameter)
template <typename T>
class Descent {
 public:
  Descent(double lr, const MLPDescent<T>& descent)
      : lr_(static_cast<T>(lr)),
        momentum_(static_cast<T>(descent.momentum)),
        weight_decay_(static_cast<T>(descent.weight_decay)) {}

  // Without momentum the buffer is null. Down the columns, a vector wide: a masked store at the end
  // of a row would hold up the load of the next row, which begins beside it in memory.
  void operator()(const Matrix<T>& gradient, T* parameter, T* momentum_buffer) const {
    const int64_t columns = gradient.columns;
    for (int64_t j = 0; j < columns; j += kLanes<T>) {
      const int64_t count = std::min(kLanes<T>, columns - j);
      for (int64_t row = 0; row < gradient.rows; ++row) {
        const int64_t at = row * columns + j;
        T* buffer = momentum_buffer == nullptr ? nullptr : momentum_buffer + at;
        if (count == kLanes<T>) {
          descend<false>(gradient.row(row) + j, parameter + at, buffer, count);
        } else {
          descend<true>(gradient.row(row) + j, parameter + at, buffer, count);
        }
      }
    }
  }

 private:
  T lr_;
  T momentum_;
  T weight_decay_;

  template <bool partial>
  void descend(const T* gradient, T* parameter, T* buffer, int64_t count) const {
    const Vec<T> before = load_lanes<partial>(parameter, count, T(0));
    Vec<T> direction = load_lanes<partial>(gradient, count, T(0)) + weight_decay_ * before;
    if (buffer != nullptr) {
      direction += momentum_ * load_lanes<partial>(buffer, count, T(0));
      store_lanes<partial>(buffer, direction, count);
    }
    store_lanes<partial>(parameter, before - lr_ * direction, count);
  }
};

template <typename T>
int64_t fused_mlp_workspace(const MLPSizes& sizes, int64_t batch_size) {
  return Workspace<T>(sizes, batch_size, nullptr).bytes;
}

template <typename T>
T fused_mlp_loss_and_gradients(const MLPTask<T>& task, MLPArrays<T> gradients) {
  const MLPStep<T> step(task);
  const T loss = step.loss_and_gradients(task.minibatches);
  for (int parameter = 0; parameter < kMLPParameters; ++parameter) {
    const Matrix<T>& gradient = step.gradients()[parameter];
    for (int64_t row = 0; row < gradient.rows; ++row) {
      std::copy_n(gradient.row(row), gradient.columns,
                  gradients[parameter] + row * gradient.columns);
    }
  }
  return loss;
}

template <typename T>
void fused_mlp_train(const MLPTask<T>& task, const MLPDescent<T>& descent, T* losses) {
  const MLPStep<T> step(task);
  for (int64_t s = 0; s < descent.steps; ++s) {
    if (s + 1 < descent.steps) {
      step.prefetch(task.minibatches + (s + 1) * task.batch_size);
    }
    losses[s] = step.loss_and_gradients(task.minibatches + s * task.batch_size);
    const Descent<T> descend(descent.lr[s], descent);
    for (int parameter = 0; parameter < kMLPParameters; ++parameter) {
      descend(step.gradients()[parameter], task.parameters[parameter],
              descent.momentum_buffers[parameter]);
    }
  }
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
