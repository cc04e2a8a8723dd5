// What the operators do, for csrc/autograd, which is built against torch's ordinary C++ API: plain
// functions of tensor handles, as the dispatcher would box every argument. A handle that is given
// is theirs to release, one that comes back is the caller's; null stands for no tensor.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <array>
#include <cstddef>
#include <cstdint>

namespace makemore_ext {

using Handle = AtenTensorHandle;

struct CrossEntropyOptions {
  int64_t reduction;
  int64_t ignore_index;
  double label_smoothing;
  double lse_square_scale;

  bool reduced() const { return reduction != 0; }
};

// For backward: nothing, what it starts from, or the gradient itself.
enum class CrossEntropyKeeps { nothing, statistics, gradient };

struct CrossEntropyResults {
  Handle loss, statistics, total_weight, lse, grad_input;
};

// `in_input_dtype`: the loss, rather than in the dtype that it is computed in.
CrossEntropyResults cross_entropy_entry(Handle input, Handle target, Handle weight,
                                        const CrossEntropyOptions& options, CrossEntropyKeeps keeps,
                                        bool return_lse, bool in_input_dtype);
// Null where the gradient took the memory of the input.
Handle cross_entropy_backward_entry(Handle grad_output, Handle grad_lse, Handle input,
                                    Handle target, Handle weight, Handle statistics,
                                    Handle total_weight, const CrossEntropyOptions& options,
                                    bool in_place);
// For grad_output, grad_lse and input; on the CPU, where there are elements.
std::array<Handle, 3> cross_entropy_second_gradients_entry(Handle grad_grad_input,
                                                           Handle grad_output, Handle grad_lse,
                                                           Handle input, Handle target,
                                                           Handle weight,
                                                           const CrossEntropyOptions& options);
void cross_entropy_scale_entry(Handle gradient, Handle factor, Handle target, int64_t ignore_index);

struct BatchNormOptions {
  bool training;
  double correction;
  double eps;
  int64_t activation;
};

// Output, and statistics where they are kept.
std::array<Handle, 2> batch_norm_entry(Handle input, Handle weight, Handle bias,
                                       Handle running_mean, Handle running_var, double momentum,
                                       const BatchNormOptions& options, bool keep_statistics);
// For input, weight and bias.
std::array<Handle, 3> batch_norm_backward_entry(Handle grad_output, Handle input, Handle weight,
                                                Handle output, Handle statistics,
                                                const BatchNormOptions& options,
                                                bool needs_grad_input, bool needs_grad_parameters);

Handle embedding_entry(Handle input, Handle weight, int64_t padding_idx);
Handle embedding_backward_entry(Handle grad_output, Handle input, int64_t num_embeddings,
                                int64_t padding_idx);

// A large uninitialised tensor on the CPU in memory that is used again (csrc/memory), or null where
// torch is to allocate it. csrc/autograd makes it, as its storage takes torch's C++ API to be as
// every other; without that module torch allocates all results.
using MakeLargeResult = Handle (*)(const int64_t* sizes, const int64_t* strides, int64_t dim,
                                   int32_t dtype);
void make_large_results_by(MakeLargeResult make);
void* take_block(std::size_t bytes);
void give_back_block(void* block);

// All of them, by name: how one module gives them to the other.
struct Entries {
  decltype(&cross_entropy_entry) cross_entropy;
  decltype(&cross_entropy_backward_entry) cross_entropy_backward;
  decltype(&cross_entropy_second_gradients_entry) cross_entropy_second_gradients;
  decltype(&cross_entropy_scale_entry) cross_entropy_scale;
  decltype(&batch_norm_entry) batch_norm;
  decltype(&batch_norm_backward_entry) batch_norm_backward;
  decltype(&embedding_entry) embedding;
  decltype(&embedding_backward_entry) embedding_backward;
  decltype(&makemore_ext::make_large_results_by) make_large_results_by;
  decltype(&makemore_ext::take_block) take_block;
  decltype(&makemore_ext::give_back_block) give_back_block;
};

}  // namespace makemore_ext
