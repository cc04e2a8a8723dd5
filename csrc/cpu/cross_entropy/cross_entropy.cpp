// Cross entropy. For one row of logits x over C classes, with target probabilities q (one at the
// target's class and zero elsewhere, where targets are class indices), class weights w and label
// smoothing s, let
//
//   q'_c = (1 - s) q_c + s/C,   v_c = w_c q'_c,   A = sum_c v_c
//   lse  = log(sum_c exp(x_c)) = max + log_sum,   log_sum = log(sum_c exp(x_c - max))
//   loss = sum_c v_c (lse - x_c) + z lse^2 = A log_sum - sum_c v_c (x_c - max) + z lse^2
//
// With p = softmax(x) = exp(x - max) / sum_c exp(x_c - max), u the gradient of the loss and g that
// of lse,
//
//   dx_c = (u A + 2 u z lse + g) p_c - u v_c
//
// In the names of makemore_ext.reference max is logit_maxes, x - max norm_logits, exp(x - max)
// counts, their sum counts_sum and dx dlogits. plain.h has the same for one row, without vectors.
//
// With y the gradient of dx and mean = sum_c p_c y_c, the gradients of x_c, u and g are
//
//   p_c ((u A + 2 u z lse + g) (y_c - mean) + 2 u z mean)
//   (A + 2 z lse) mean - sum_c v_c y_c
//   mean
//
// Where targets are indices t, v splits in (1 - s) w_t at the target, which is added last and in
// double, and s/C w_c everywhere.
//
// Forward reads the logits once and keeps, per row, max, the sum of exp(x - max), and A in double:
// a confident row has a sum near 1, whose distance from 1 one float could not hold. When asked to,
// it forms the gradient as well, while a row is still in cache; else backward reads the logits once
// more and writes it. Sums over classes and rows are kept in double.
//
// Rows are worked on in blocks, in one of two ways: a row after the other, contiguous in memory or
// copied to be, see rows.h; or neighbouring rows side by side, as where the classes are the
// channels of an image or very few, see columns.h.
#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "../../arguments.h"
#include "../errors.h"
#include "../parallel.h"
#include "../scratch.h"
#include "../simd/vec.h"
#include "block.h"
#include "columns.h"
#include "kernels.h"
#include "rows.h"
#include "second_gradients.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Throws for a target that is no class; returns the divisor of the mean.
template <typename T>
double check_targets(const CrossEntropyArguments<T>& arguments) {
  const Compute<T>* weight = arguments.weight;
  const int64_t rows = arguments.shape.rows;
  const uint64_t classes = static_cast<uint64_t>(arguments.shape.classes);
  if (arguments.has_probabilities) {
    return classes == 0 ? 0.0 : static_cast<double>(rows);
  }
  const int64_t ignore_index = arguments.ignore_index;
  const auto check = [&](const auto* target) {
    // As numbers without branches: compilers make vectors of it.
    int64_t outside = 0;
    int64_t valid_rows = 0;
    for (int64_t i = 0; i < rows; ++i) {
      const int64_t t = target[i];
      const int64_t valid = t != ignore_index;
      outside += valid & (static_cast<uint64_t>(t) >= classes);
      valid_rows += valid;
    }
    for (int64_t i = 0; outside > 0 && i < rows; ++i) {
      const int64_t t = target[i];
      if (t != ignore_index && static_cast<uint64_t>(t) >= classes) {
        throw_target_out_of_range(t);
      }
    }
    if (weight == nullptr) {
      return static_cast<double>(valid_rows);
    }
    double total = 0;
    for (int64_t i = 0; i < rows; ++i) {
      total += target[i] == ignore_index ? 0.0 : weight[target[i]];
    }
    return total;
  };
  return arguments.target.wide != nullptr ? check(arguments.target.wide)
                                          : check(arguments.target.narrow);
}

// Calls body(kind) for the kind of target.
template <typename T, typename Body>
void with_target_kind(const CrossEntropyArguments<T>& arguments, const Body& body) {
  if (arguments.has_probabilities) {
    body(std::integral_constant<TargetKind, TargetKind::probabilities>{});
  } else if (arguments.label_smoothing > 0) {
    body(std::integral_constant<TargetKind, TargetKind::smoothed_index>{});
  } else {
    body(std::integral_constant<TargetKind, TargetKind::index>{});
  }
}

// Whether there is a row in each lane of a vector, see columns.h.
template <typename T>
bool in_columns(const CrossEntropyArguments<T>& arguments, const RowView<T>& gradient) {
  const RowShape& shape = arguments.shape;
  const auto side_by_side = [&](const auto& view) {
    return view.data == nullptr || view.inner_stride(shape) == 1;
  };
  return shape.inner() >= kLanes<T> &&
         (shape.classes <= kMostGatheredClasses ||
          (arguments.logits.class_stride != 1 && side_by_side(arguments.logits) &&
           side_by_side(gradient) && side_by_side(arguments.probabilities)));
}

// Calls body(blocks, targets, make_worker) for the layout of these views and the kind of target.
// `after_reduce`: see RowWorker.
template <typename T, typename Body>
void with_layout(const CrossEntropyArguments<T>& arguments, const RowView<T>& gradient,
                 bool after_reduce, const Body& body) {
  with_target_kind(arguments, [&](auto kind) {
    constexpr TargetKind kKind = decltype(kind)::value;
    const BlockTargets<T, kKind> targets(arguments);
    if (in_columns(arguments, gradient)) {
      body(ColumnBlocks::of(arguments), targets,
           [&] { return ColumnWorker<T, kKind>(arguments, gradient, after_reduce); });
    } else {
      body(RowBlocks::of(arguments), targets,
           [&] { return RowWorker<T, kKind>(arguments, gradient, after_reduce); });
    }
  });
}

// Calls body(piece, worker, block, state) for every block of rows. A piece is a run of blocks, each
// on one thread with its own worker and state.
template <typename State, typename Blocks, typename MakeWorker, typename Body>
void for_each_block(const RowShape& shape, const Blocks& blocks, const MakeWorker& make_worker,
                    const Body& body) {
  for_each_piece(blocks.count(), blocks.blocks_per_piece, shape.rows * shape.classes,
                 [&](int64_t piece, int64_t begin, int64_t end) {
                   auto worker = make_worker();
                   State state;
                   for (int64_t i = begin; i < end; ++i) {
                     body(piece, worker, blocks[i], state);
                   }
                 });
}

// In the order of the pieces, whichever thread had them.
class SumOfPieces {
 public:
  template <typename Blocks>
  explicit SumOfPieces(const Blocks& blocks)
      : pieces_((blocks.count() + blocks.blocks_per_piece - 1) / blocks.blocks_per_piece),
        sums_(pieces_) {
    std::fill(sums_.data(), sums_.data() + pieces_, 0.0);
  }
  void add(int64_t piece, double term) const { sums_.data()[piece] += term; }
  double total() const {
    double result = 0;
    for (int64_t piece = 0; piece < pieces_; ++piece) {
      result += sums_.data()[piece];
    }
    return result;
  }

 private:
  int64_t pieces_;
  Scratch<double> sums_;
};

// One value of each row of a block.
template <typename From, typename To>
void copy_rows(RowBlock block, const From* source, To* destination) {
  for (int64_t i = 0; i < block.count; ++i) {
    destination[i] = static_cast<To>(source[i]);
  }
}

template <typename T>
void cross_entropy_forward(const CrossEntropyArguments<T>& arguments, Compute<T>* loss,
                           double* statistics, double* total_weight, RowView<T> gradient) {
  const RowShape& shape = arguments.shape;
  const bool reduced = arguments.reduction != Reduction::none;
  // Before the threads start: an exception must not cross them.
  *total_weight = check_targets(arguments);
  const double divisor = arguments.reduction == Reduction::mean ? mean_divisor(*total_weight) : 1.0;

  with_layout(arguments, gradient, true,
              [&](const auto& blocks, const auto& targets, const auto& make_worker) {
                const SumOfPieces sum(blocks);
                for_each_block<BlockState<T>>(
                    shape, blocks, make_worker,
                    [&](int64_t piece, auto& worker, RowBlock block, BlockState<T>& state) {
                      worker.begin(block);
                      worker.reduce(block, state);
                      targets.read(worker, block, state);
                      double losses[kBlockRows];
                      sum.add(piece, targets.losses(block, state, losses));
                      if (!reduced) {
                        copy_rows(block, losses, loss + block.begin);
                      }
                      if (statistics != nullptr) {
                        double* const of_block = statistics + block.begin;
                        copy_rows(block, state.max, of_block);
                        copy_rows(block, state.sum_exp, of_block + shape.rows);
                        copy_rows(block, state.mass, of_block + 2 * shape.rows);
                      }
                      if (gradient.data != nullptr) {
                        std::fill(state.grad_loss, state.grad_loss + block.count, 1.0 / divisor);
                        std::fill(state.grad_lse, state.grad_lse + block.count, 0.0);
                        targets.factors(block, state);
                        worker.gradient(block, state);
                        targets.write_at_targets(worker, block, state);
                      }
                    });
                if (reduced) {
                  *loss = static_cast<Compute<T>>(sum.total() / divisor);
                }
              });
}

template <typename T>
void cross_entropy_backward(const CrossEntropyArguments<T>& arguments,
                            Vector<const Compute<T>> grad_output, Vector<const Compute<T>> grad_lse,
                            const double* statistics, double total_weight, RowView<T> gradient) {
  const RowShape& shape = arguments.shape;
  check_targets(arguments);
  const double divisor = arguments.reduction == Reduction::mean ? mean_divisor(total_weight) : 1.0;

  with_layout(arguments, gradient, false,
              [&](const auto& blocks, const auto& targets, const auto& make_worker) {
                for_each_block<BlockState<T>>(
                    shape, blocks, make_worker,
                    [&](int64_t, auto& worker, RowBlock block, BlockState<T>& state) {
                      worker.begin(block);
                      const double* const of_block = statistics + block.begin;
                      copy_rows(block, of_block, state.max);
                      copy_rows(block, of_block + shape.rows, state.sum_exp);
                      copy_rows(block, of_block + 2 * shape.rows, state.mass);
                      for (int64_t i = 0; i < block.count; ++i) {
                        const int64_t row = block.begin + i;
                        state.grad_loss[i] = grad_output[row] / divisor;
                        state.grad_lse[i] = grad_lse.data == nullptr ? 0.0 : grad_lse[row];
                      }
                      targets.read(worker, block, state);
                      targets.factors(block, state);
                      worker.gradient(block, state);
                      targets.write_at_targets(worker, block, state);
                    });
              });
}

template <typename T>
void cross_entropy_second_gradients(const CrossEntropyArguments<T>& arguments,
                                    const CrossEntropySecond<T>& second) {
  const double total_weight = check_targets(arguments);
  const double divisor = arguments.reduction == Reduction::mean ? mean_divisor(total_weight) : 1.0;
  const bool columns = in_columns(arguments, second.for_input);
  with_target_kind(arguments, [&](auto kind) {
    using Worker = SecondGradients<T, decltype(kind)::value>;
    const auto run = [&](const auto& blocks) {
      const SumOfPieces sum(blocks);
      for_each_block<SecondState<T>>(
          arguments.shape, blocks,
          [&] { return Worker(arguments, second, divisor, blocks.rows_per_block, columns); },
          [&](int64_t piece, const Worker& worker, RowBlock block, SecondState<T>& state) {
            sum.add(piece, worker.block(block, state));
          });
      if (arguments.reduction != Reduction::none) {
        second.for_loss[0] = static_cast<Compute<T>>(sum.total() / divisor);
      }
    };
    columns ? run(ColumnBlocks::of(arguments)) : run(RowBlocks::of(arguments));
  });
}

template <>
CrossEntropyKernels<Half> table() {
  return CrossEntropyKernels<Half>{cross_entropy_forward<Half>, cross_entropy_backward<Half>,
                                   cross_entropy_second_gradients<Half>};
}
template <>
CrossEntropyKernels<BFloat16> table() {
  return CrossEntropyKernels<BFloat16>{cross_entropy_forward<BFloat16>,
                                       cross_entropy_backward<BFloat16>,
                                       cross_entropy_second_gradients<BFloat16>};
}
template <>
CrossEntropyKernels<float> table() {
  return CrossEntropyKernels<float>{cross_entropy_forward<float>, cross_entropy_backward<float>,
                                    cross_entropy_second_gradients<float>};
}
template <>
CrossEntropyKernels<double> table() {
  return CrossEntropyKernels<double>{cross_entropy_forward<double>, cross_entropy_backward<double>,
                                     cross_entropy_second_gradients<double>};
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
