// Tensors with the channels in dimension 1 as the kernels of batch norm walk them.
#pragma once

#include "../arguments.h"
#include "tensors.h"

namespace makemore_ext {

// Where all channels of a position are together in memory.
inline bool is_channels_last(const Tensor& input) {
  return input.dim() == 2 || suggests_channels_last(input);
}

// A tensor as the kernels walk it; null data where they cannot. `channels_last` says where they
// expect the channels.
template <typename T>
ChannelView<T> channel_view(const Tensor& tensor, T* data, bool channels_last) {
  // The dimensions beside N and C, joined: the innermost stride, and whether there is one.
  int64_t inner_stride = 1;
  int64_t inner = 1;
  bool joined = true;
  for (int64_t dim = tensor.dim() - 1; dim >= 2; --dim) {
    if (tensor.size(dim) != 1) {
      joined = joined && (inner == 1 || tensor.stride(dim) == inner_stride * inner);
      inner_stride = inner == 1 ? tensor.stride(dim) : inner_stride;
      inner *= tensor.size(dim);
    }
  }
  ChannelView<T> view{data, tensor.stride(0), tensor.stride(1), inner_stride};
  if (tensor.size(1) == 1) {
    view.channel_stride = channels_last ? 1 : inner;
  }
  if (channels_last) {
    // One dimension of N and the positions, which the kernels take for N.
    if (inner > 1) {
      joined = joined && (tensor.size(0) == 1 || view.outer_stride == inner_stride * inner);
      view.outer_stride = inner_stride;
    }
    view.inner_stride = 1;
    joined = joined && view.channel_stride == 1;
  } else {
    joined = joined && (inner == 1 || view.inner_stride == 1);
    view.inner_stride = 1;
  }
  view.data = joined ? data : nullptr;
  return view;
}

// A tensor of the shape of input together with its view. Holds the copy where there is one.
template <typename T>
class Viewed {
 public:
  Viewed() = default;
  Viewed(const Tensor& tensor, bool channels_last)
      : tensor_(tensor), view_(channel_view(tensor, const_data<T>(tensor), channels_last)) {
    if (view_.data == nullptr && tensor.numel() > 0) {
      tensor_ = copy(tensor, channels_last);
      view_ = channel_view(*tensor_, const_data<T>(*tensor_), channels_last);
    }
  }
  const ChannelView<const T>& view() const { return view_; }

 private:
  static Tensor copy(const Tensor& tensor, bool channels_last) {
    Tensor result = allocate_dense(tensor, channels_last);
    torch::stable::copy_(result, tensor);
    return result;
  }

  OptionalTensor tensor_;
  ChannelView<const T> view_{};
};

inline ChannelShape channel_shape(const Tensor& input, bool channels_last) {
  int64_t inner = 1;
  for (int64_t dim = 2; dim < input.dim(); ++dim) {
    inner *= input.size(dim);
  }
  return channels_last ? ChannelShape{input.size(0) * inner, input.size(1), 1}
                       : ChannelShape{input.size(0), input.size(1), inner};
}

}  // namespace makemore_ext
