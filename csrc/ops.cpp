// Every operator of the extension: the table of contents of the native half. What an operator
// checks, and its call into the kernels, stand in csrc/ops/<operation>.cpp.
#include <torch/csrc/stable/library.h>

STABLE_TORCH_LIBRARY(makemore_ext, library) {
  library.def(
      "cross_entropy_forward(Tensor input, Tensor target, Tensor? weight, int reduction, "
      "int ignore_index, float label_smoothing, float lse_square_scale, bool return_lse=False) "
      "-> (Tensor loss, Tensor statistics, Tensor total_weight, Tensor lse)");
  library.def(
      "cross_entropy_forward_with_gradient(Tensor input, Tensor target, Tensor? weight, "
      "int reduction, int ignore_index, float label_smoothing, float lse_square_scale) "
      "-> (Tensor loss, Tensor grad_input)");
  library.def(
      "cross_entropy_backward(Tensor grad_output, Tensor? grad_lse, Tensor input, Tensor target, "
      "Tensor? weight, Tensor statistics, Tensor total_weight, int reduction, int ignore_index, "
      "float label_smoothing, float lse_square_scale) -> Tensor");
  library.def(
      "cross_entropy_backward_(Tensor grad_output, Tensor? grad_lse, Tensor(a!) input, "
      "Tensor target, Tensor? weight, Tensor statistics, Tensor total_weight, int reduction, "
      "int ignore_index, float label_smoothing, float lse_square_scale) -> ()");
  library.def(
      "cross_entropy_scale_(Tensor(a!) gradient, Tensor factor, Tensor target, int ignore_index) "
      "-> ()");
  // Input [N, C, d1, ...]. weight and bias are of its dtype or of the one it is computed in; so are
  // their gradients. statistics: see csrc/cpu/batch_norm/batch_norm.cpp, [3, C] float64. The
  // running statistics are of any floating dtype: read in evaluation, updated by the second
  // operator, which is for training. A gradient that is not needed has no elements.
  library.def(
      "batch_norm_forward(Tensor input, Tensor? weight, Tensor? bias, Tensor? running_mean, "
      "Tensor? running_var, bool training, float correction, float eps, int activation) "
      "-> (Tensor output, Tensor statistics)");
  library.def(
      "batch_norm_forward_and_update(Tensor input, Tensor? weight, Tensor? bias, "
      "Tensor(a!) running_mean, Tensor(b!) running_var, float momentum, float correction, "
      "float eps, int activation) -> (Tensor output, Tensor statistics)");
  library.def(
      "batch_norm_backward(Tensor grad_output, Tensor input, Tensor? weight, Tensor? output, "
      "Tensor statistics, bool training, float correction, int activation, "
      "bool needs_grad_input, bool needs_grad_parameters) "
      "-> (Tensor grad_input, Tensor grad_weight, Tensor grad_bias)");
  // Of a part of the batch. Statistics [2, C] float64: mean and variance, divided by the elements.
  // sums [2, C] float64: sum dz and sum dz xhat; shares: those of the whole batch, divided by its
  // elements, and by its elements less the correction.
  library.def("batch_norm_statistics(Tensor input) -> Tensor");
  library.def(
      "batch_norm_gradient_sums(Tensor grad_output, Tensor input, Tensor? output, "
      "Tensor statistics, int activation) -> Tensor sums");
  library.def(
      "batch_norm_input_gradient(Tensor grad_output, Tensor input, Tensor? weight, "
      "Tensor? output, Tensor statistics, Tensor shares, int activation) -> Tensor");
  // Input of any shape holds indices, int64 or int32, into weight [V, D]. padding_idx: the row that
  // gets no gradient, or -1.
  library.def("embedding(Tensor input, Tensor weight, SymInt padding_idx=-1) -> Tensor");
  library.def(
      "embedding_backward(Tensor grad_output, Tensor input, SymInt num_embeddings, "
      "SymInt padding_idx=-1) -> Tensor");
}
