// What the operators do, for csrc/autograd, which is built against torch's ordinary C++ API: plain
// functions of tensor handles, as the dispatcher would box every argument. A handle that is given
// is theirs to release, one that comes back is the caller's.
#pragma once

#include <torch/csrc/inductor/aoti_torch/c/shim.h>

#include <cstdint>

namespace makemore_ext {

AtenTensorHandle embedding_entry(AtenTensorHandle input, AtenTensorHandle weight,
                                 int64_t padding_idx);
AtenTensorHandle embedding_backward_entry(AtenTensorHandle grad_output, AtenTensorHandle input,
                                          int64_t num_embeddings, int64_t padding_idx);

// All of them, by name: how one module gives them to the other.
struct Entries {
  decltype(&embedding_entry) embedding;
  decltype(&embedding_backward_entry) embedding_backward;
};

}  // namespace makemore_ext
