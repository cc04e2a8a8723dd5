// Tensors with the classes in dimension 1, or in the only one, as rows of classes: what the kernels
// of cross entropy walk.
#pragma once

#include <algorithm>
#include <initializer_list>
#include <vector>

#include "../arguments.h"
#include "tensors.h"

namespace makemore_ext {

inline int64_t class_dim(const Tensor& input) {
  return input.dim() == 1 ? 0 : 1;
}

// The sizes of all dimensions but that of the classes, after `leading`.
inline std::vector<int64_t> row_sizes(const Tensor& input, std::initializer_list<int64_t> leading) {
  std::vector<int64_t> sizes(leading);
  for (int64_t dim = 0; dim < input.dim(); ++dim) {
    if (dim != class_dim(input)) {
      sizes.push_back(input.size(dim));
    }
  }
  return sizes;
}

inline int64_t row_count(const Tensor& input) {
  int64_t rows = 1;
  for (const int64_t size : row_sizes(input, {})) {
    rows *= size;
  }
  return rows;
}

// The dimensions of the rows, joined where all of the views can be walked as one.
class JoinedRows {
 public:
  JoinedRows() = default;
  explicit JoinedRows(const std::vector<const Tensor*>& views) {
    const Tensor& input = *views.front();
    shape_.classes = input.size(class_dim(input));
    shape_.rows = row_count(input);
    for (int64_t dim = 0; dim < input.dim(); ++dim) {
      if (dim != class_dim(input) && input.size(dim) != 1) {
        append(dim, input.size(dim), views);
      }
    }
  }

  // Whether the kernels can walk so many.
  bool fit() const { return shape_.dimensions <= kMostRowDimensions; }
  const RowShape& shape() const { return shape_; }

  template <typename T>
  RowView<T> view(const Tensor& tensor, T* data) const {
    RowView<T> result{data, tensor.stride(class_dim(tensor)), {}};
    for (int i = 0; i < shape_.dimensions; ++i) {
      result.strides[i] = tensor.stride(last_[i]);
    }
    return result;
  }

 private:
  void append(int64_t dim, int64_t size, const std::vector<const Tensor*>& views) {
    const int last = std::min(shape_.dimensions, kMostRowDimensions) - 1;
    const auto continues = [&](const Tensor* tensor) {
      return tensor->stride(last_[last]) == tensor->stride(dim) * size;
    };
    if (last >= 0 && std::all_of(views.begin(), views.end(), continues)) {
      last_[last] = dim;
      shape_.sizes[last] *= size;
    } else if (shape_.dimensions++ < kMostRowDimensions) {
      last_[last + 1] = dim;
      shape_.sizes[last + 1] = size;
    }
  }

  RowShape shape_{};
  int64_t last_[kMostRowDimensions];  // of each joined dimension, the innermost one of its own
};

}  // namespace makemore_ext
