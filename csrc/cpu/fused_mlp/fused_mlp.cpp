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
// The names are those of makemore_ext.reference, where every step is derived; batch norm's and
// cross entropy's are in layers.h, what they share with the operators in simd/.
//
// b1 moves the mean of hprebn, which batch norm subtracts: its gradient is 0.
#include <algorithm>
#include <cstdint>
#include <limits>

#include "../errors.h"
#include "../parallel.h"
#include "../simd/vec.h"
#include "descent.h"
#include "gemm.h"
#include "gemm_dot.h"
#include "kernels.h"
#include "layers.h"
#include "workspace.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// destination += source, for whole vectors.
template <typename T>
inline void add_to(T* destination, const T* source, int64_t count) {
  for (int64_t j = 0; j < count; j += kLanes<T>) {
    store(destination + j, load(destination + j) + load(source + j));
  }
}

// Indices in [0, limit), each read once, as another thread may be writing them. One outside is read
// as 0, and remembered.
struct CheckedIndices {
  const int64_t* data;
  int64_t limit;
  int64_t outside = 0;

  int64_t operator[](int64_t i) {
    const int64_t index = __atomic_load_n(data + i, __ATOMIC_RELAXED);
    const bool inside = is_inside(index);
    outside = inside ? outside : index;
    return inside ? index : 0;
  }
  bool is_inside(int64_t index) const {
    return static_cast<uint64_t>(index) < static_cast<uint64_t>(limit);
  }
  bool all_inside() const { return is_inside(outside); }
  void throw_if_outside(const char* name) const {
    if (!all_inside()) {
      throw_argument_out_of_range(name, outside, limit);
    }
  }
};

// A step on one minibatch size, from the parameters in the workspace.
template <typename T>
class MLPStep {
 public:
  MLPStep(const MLPTask<T>& task, const Workspace<T>& workspace)
      : V(task.sizes.vocabulary),
        K(task.sizes.context),
        D(task.sizes.embedding),
        H(task.sizes.hidden),
        n(task.batch_size),
        task(task),
        w(workspace) {}

  // The loss of windows x[minibatch[i]], y[minibatch[i]]. Leaves their gradients in the workspace,
  // or descends along them. The minibatch `next`, unless null, is fetched from memory meanwhile.
  // Throws std::out_of_range for an index outside [0, V).
  T operator()(const int64_t* minibatch, const Descent<T>* descent, const int64_t* next) const {
    find_slots(minibatch);
    prefetch(next, 0);
    forward_hidden();
    prefetch(next, 1);
    forward_logits();
    const double loss = cross_entropy();
    prefetch(next, 2);
    backward_logits(descent);
    prefetch(next, 3);
    backward_hidden(descent);
    if (descent != nullptr) {
      descend_along_the_others(*descent);
    }
    forget_slots();
    return static_cast<T>(loss);
  }

 private:
  const int64_t V, K, D, H, n;
  const MLPTask<T>& task;
  const Workspace<T>& w;

  // Rows of W1, or of its gradient, that belong to position k.
  Matrix<T> of_position(const Matrix<T>& m, int64_t k) const {
    return {m.row(k * D), D, m.columns, m.row_stride, 1};
  }

  // Rows of a matrix over slots that belong to position k.
  Matrix<T> at_position(const Matrix<T>& m, int64_t k) const {
    const int64_t first = w.first_slot[k];
    return {m.row(first), w.first_slot[k + 1] - first, m.columns, m.row_stride, 1};
  }

  static constexpr int64_t kPrefetches = 4;

  // Has the memory fetch a part of a minibatch's windows, which are spread over the whole set: few
  // enough at a time that they need not wait for each other.
  void prefetch(const int64_t* minibatch, int64_t part) const {
    if (minibatch != nullptr) {
      for (int64_t i = part * n / kPrefetches; i < (part + 1) * n / kPrefetches; ++i) {
        __builtin_prefetch(task.x + minibatch[i] * K);
        __builtin_prefetch(task.x + minibatch[i] * K + K - 1);
        __builtin_prefetch(task.y + minibatch[i]);
      }
    }
  }

  // Without a branch on whether a character is new, which nothing could foresee.
  void find_slots(const int64_t* minibatch) const {
    CheckedIndices x{task.x, V}, y{task.y, V};
    int32_t slots = 0;
    for (int64_t k = 0; k < K; ++k) {
      w.first_slot[k] = slots;
      for (int64_t i = 0; i < n; ++i) {
        const int64_t v = x[minibatch[i] * K + k];
        int32_t& known = w.slot_of[k * V + v];
        const int32_t slot = known == 0 ? slots : known - 1;
        w.character[slots] = v;
        slots += known == 0 ? 1 : 0;
        known = slot + 1;
        w.slot[i * K + k] = slot;
      }
    }
    w.first_slot[K] = slots;
    const Matrix<T>& C = w.parameters[kC];
    for (int64_t slot = 0; slot < slots; ++slot) {
      std::copy_n(C.row(w.character[slot]), D, w.embedding.row(slot));
    }
    for (int64_t i = 0; i < n; ++i) {
      w.target[i] = y[minibatch[i]];
    }
    if (!x.all_inside() || !y.all_inside()) {
      forget_slots();
      x.throw_if_outside("x");
      y.throw_if_outside("y");
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
            w.parameters[kB1].data,
            w.parameters[kBngain].data,
            w.parameters[kBnbias].data,
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

  void forward_hidden() const {
    for (int64_t k = 0; k < K; ++k) {
      multiply<T>(read_only(at_position(w.embedding, k)),
                  whole_vectors(of_position(w.parameters[kW1], k)), nullptr,
                  at_position(w.table, k));
    }
    const HiddenLayer<T> layer = hidden_layer();
    for_each_panel([&](int64_t column) { hidden_forward<T>(layer, column); });
  }

  void forward_logits() const {
    T* b2 = w.parameters[kB2].data;
    std::fill(b2 + V, b2 + padded<T>(V), -std::numeric_limits<T>::infinity());
    multiply<T>(read_only(w.h), whole_vectors(w.parameters[kW2]), b2, w.logits);
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

  // W1 and W2 descend along their gradients as these are computed, after the last use of what that
  // changes.
  void backward_logits(const Descent<T>* descent) const {
    const Matrix<T>& W2 = w.parameters[kW2];
    const Matrix<T>& dlogits = w.logits;
    multiply<T>(read_only(dlogits), transposed(read_only(W2)), nullptr, w.dh);
    multiply<T>(transposed(read_only(w.h)), whole_vectors(dlogits), nullptr, w.gradients[kW2],
                descent);
    sum_rows(dlogits, w.gradients[kB2].data);
  }

  void backward_hidden(const Descent<T>* descent) const {
    const HiddenLayer<T> layer = hidden_layer();
    const int64_t slots = w.first_slot[K];
    for_each_panel([&](int64_t column) { hidden_backward<T>(layer, slots, column); });

    for (int64_t k = 0; k < K; ++k) {
      const Matrix<T> dtable = at_position(w.table, k);
      multiply_transposed<T>(whole_vectors(dtable),
                             whole_vectors(of_position(w.parameters[kW1], k)),
                             at_position(w.dembedding, k));
      multiply<T>(transposed(read_only(at_position(w.embedding, k))), whole_vectors(dtable),
                  nullptr, of_position(w.gradients[kW1], k), descent);
    }
    const Matrix<T>& dC = w.gradients[kC];
    std::fill_n(dC.data, V * dC.row_stride, T(0));
    for (int64_t slot = 0; slot < slots; ++slot) {
      add_to(dC.row(w.character[slot]), w.dembedding.row(slot), D);
    }
  }

  // The gradients of the other parameters, which backward_*() leave in the workspace.
  void descend_along_the_others(const Descent<T>& descent) const {
    for (const MLPParameter parameter : {kC, kB1, kB2, kBngain, kBnbias}) {
      const Matrix<T>& gradient = w.gradients[parameter];
      for (int64_t row = 0; row < gradient.rows; ++row) {
        for (int64_t j = 0; j < gradient.columns; j += kLanes<T>) {
          T* place = gradient.row(row) + j;
          descent.along(load(place), place);
        }
      }
    }
  }
};

template <typename T>
int64_t fused_mlp_workspace(const MLPSizes& sizes, int64_t batch_size) {
  return Workspace<T>(sizes, batch_size, nullptr).bytes;
}

template <typename T>
T fused_mlp_loss_and_gradients(const MLPTask<T>& task, MLPArrays<T> gradients) {
  const Workspace<T> workspace(task.sizes, task.batch_size, task.workspace);
  copy_in(task.parameters, workspace.parameters);
  const T loss = MLPStep<T>(task, workspace)(task.minibatches, nullptr, nullptr);
  copy_out(workspace.gradients, gradients);
  return loss;
}

template <typename T>
void fused_mlp_train(const MLPTask<T>& task, const MLPDescent<T>& descent, T* losses) {
  const Workspace<T> workspace(task.sizes, task.batch_size, task.workspace);
  const MLPStep<T> step(task, workspace);
  const bool has_momentum = descent.momentum_buffers[0] != nullptr;
  copy_in(task.parameters, workspace.parameters);
  if (has_momentum) {
    copy_in(descent.momentum_buffers, workspace.momentum_buffers);
  }
  for (int64_t s = 0; s < descent.steps; ++s) {
    const int64_t* minibatch = task.minibatches + s * task.batch_size;
    const int64_t* next = s + 1 < descent.steps ? minibatch + task.batch_size : nullptr;
    const Descent<T> descend(descent.lr[s], descent,
                             workspace.parameters[0].data - workspace.gradients[0].data,
                             workspace.momentum_buffers[0].data - workspace.gradients[0].data);
    losses[s] = step(minibatch, &descend, next);
  }
  copy_out(workspace.parameters, task.parameters);
  if (has_momentum) {
    copy_out(workspace.momentum_buffers, descent.momentum_buffers);
  }
}

template <>
FusedMLPKernels<float> table() {
  return FusedMLPKernels<float>{fused_mlp_workspace<float>, fused_mlp_loss_and_gradients<float>,
                                fused_mlp_train<float>};
}
template <>
FusedMLPKernels<double> table() {
  return FusedMLPKernels<double>{fused_mlp_workspace<double>, fused_mlp_loss_and_gradients<double>,
                                 fused_mlp_train<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
