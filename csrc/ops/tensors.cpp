#include "tensors.h"

#include <algorithm>
#include <utility>
#include <vector>

#include "../cpu/huge_pages.h"
#include "../cpu/parallel.h"
#include "../memory/block_cache.h"
#include "entries.h"

#ifdef __SANITIZE_THREAD__
extern "C" void __tsan_release(void* moment);
extern "C" void __tsan_acquire(void* moment);
#endif

namespace makemore_ext {

namespace cpu {

namespace {

// The threads of a parallel region begin after what came before it, and end before what follows.
// ThreadSanitizer has to be told, as OpenMP is not built with it.
enum Moment { kFork, kJoin };
#ifdef __SANITIZE_THREAD__
char moments[2];
void before(Moment moment) {
  __tsan_release(&moments[moment]);
}
void after(Moment moment) {
  __tsan_acquire(&moments[moment]);
}
#else
void before(Moment) {}
void after(Moment) {}
#endif

}  // namespace

void parallel_for(int64_t count, RangeFunction function, const void* context) {
  const auto run = [&](int64_t begin, int64_t end) {
    after(kFork);
    function(begin, end, context);
    before(kJoin);
  };
  before(kFork);
  torch::stable::parallel_for(0, count, 1, run);
  after(kJoin);
}

}  // namespace cpu

namespace {

MakeLargeResult make_large_result = nullptr;

std::vector<int64_t> contiguous_strides(Sizes size) {
  std::vector<int64_t> strides(size.size());
  int64_t stride = 1;
  for (std::size_t dim = size.size(); dim-- > 0;) {
    strides[dim] = stride;
    stride *= std::max<int64_t>(1, size[dim]);
  }
  return strides;
}

// Straight from the allocator, since torch::stable::new_empty, which looks its operator up by name,
// costs more than a small kernel.
Tensor allocate(const Tensor& like, Sizes size, Sizes strides, ScalarType dtype) {
  int32_t device_type = 0;
  TORCH_ERROR_CODE_CHECK(aoti_torch_get_device_type(like.get(), &device_type));
  const auto dim = static_cast<int64_t>(size.size());
  const auto dtype_code = torch::stable::detail::to<int32_t>(torch::stable::detail::from(dtype));
  AtenTensorHandle handle = nullptr;
  if (like.is_cpu() && make_large_result != nullptr) {
    handle = make_large_result(size.data(), strides.data(), dim, dtype_code);
    if (handle != nullptr) {
      return Tensor(handle);
    }
  }
  TORCH_ERROR_CODE_CHECK(aoti_torch_empty_strided(dim, size.data(), strides.data(), dtype_code,
                                                  device_type, like.get_device_index(), &handle));
  Tensor result(handle);
  if (like.is_cpu()) {
    cpu::advise_huge_pages(result.mutable_data_ptr(),
                           static_cast<std::size_t>(result.numel()) * result.element_size());
  }
  return result;
}

// The dimensions of more than one element, those that are close in memory first.
std::vector<int64_t> dims_by_stride(const Tensor& tensor) {
  std::vector<int64_t> dims;
  for (int64_t dim = 0; dim < tensor.dim(); ++dim) {
    if (tensor.size(dim) != 1) {
      dims.push_back(dim);
    }
  }
  std::sort(dims.begin(), dims.end(),
            [&](int64_t a, int64_t b) { return tensor.stride(a) < tensor.stride(b); });
  return dims;
}

// The order of the dimensions in memory, without gaps: what torch.empty_like gives, which torch's
// tracing takes for granted. Where strides are 0 or equal it is theirs by the same insertion sort.
std::vector<int64_t> dense_strides(const Tensor& tensor) {
  const auto order = [&](int64_t a, int64_t b) -> int64_t {
    if (tensor.stride(a) == 0 || tensor.stride(b) == 0) {
      return 0;
    }
    return tensor.stride(a) != tensor.stride(b)
               ? tensor.stride(a) - tensor.stride(b)
               : std::max<int64_t>(0, tensor.size(a) - tensor.size(b));
  };
  std::vector<int64_t> dims(tensor.dim());
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    dims[i] = tensor.dim() - 1 - i;
    for (int64_t to = i, from = i - 1; from >= 0; --from) {
      const int64_t comparison = order(dims[from], dims[to]);
      if (comparison < 0) {
        break;
      }
      if (comparison > 0) {
        std::swap(dims[from], dims[to]);
        to = from;
      }
    }
  }
  std::vector<int64_t> strides(tensor.dim());
  int64_t stride = 1;
  for (const int64_t dim : dims) {
    strides[dim] = stride;
    stride *= tensor.size(dim);
  }
  return strides;
}

}  // namespace

void make_large_results_by(MakeLargeResult make) {
  make_large_result = make;
}

void* take_block(std::size_t bytes) {
  return memory::block_cache().take(bytes);
}

void give_back_block(void* block) {
  memory::block_cache().give_back(block);
}

const char* dtype_name(ScalarType dtype) {
  switch (dtype) {
    case ScalarType::Half:
      return "float16";
    case ScalarType::BFloat16:
      return "bfloat16";
    case ScalarType::Float:
      return "float32";
    case ScalarType::Double:
      return "float64";
    case ScalarType::Int:
      return "int32";
    case ScalarType::Long:
      return "int64";
    default:
      return torch::headeronly::toString(dtype);
  }
}

std::string device_name(const Tensor& tensor) {
  return tensor.is_cuda() ? "cuda:" + std::to_string(tensor.get_device_index()) : "cpu";
}

std::string as_list(Sizes sizes) {
  std::string result = "[";
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    result += (i == 0 ? "" : ", ") + std::to_string(sizes[i]);
  }
  return result + "]";
}

bool has_gap_or_overlap(const Tensor& tensor) {
  if (tensor.is_contiguous()) {
    return false;
  }
  int64_t expected = 1;
  for (const int64_t dim : dims_by_stride(tensor)) {
    if (tensor.stride(dim) != expected) {
      return true;
    }
    expected *= tensor.size(dim);
  }
  return false;
}

bool has_overlap(const Tensor& tensor) {
  if (tensor.is_contiguous() || tensor.numel() == 0) {
    return false;
  }
  int64_t extent = 1;
  for (const int64_t dim : dims_by_stride(tensor)) {
    if (tensor.stride(dim) < extent) {
      return true;
    }
    extent += (tensor.size(dim) - 1) * tensor.stride(dim);
  }
  return false;
}

void check_separate(const Tensor& tensor, const char* name, const OptionalTensor& other,
                    const char* other_name) {
  if (!other || has_gap_or_overlap(tensor) || has_gap_or_overlap(*other)) {
    return;
  }
  const auto begin = [](const Tensor& t) { return static_cast<const char*>(t.const_data_ptr()); };
  const auto end = [&](const Tensor& t) { return begin(t) + t.numel() * t.element_size(); };
  STD_TORCH_CHECK(tensor.numel() == 0 || other->numel() == 0 || end(tensor) <= begin(*other) ||
                      end(*other) <= begin(tensor),
                  name, " must not share memory with ", other_name);
}

Tensor allocate(const Tensor& like, Sizes size, ScalarType dtype) {
  return allocate(like, size, contiguous_strides(size), dtype);
}

Tensor allocate(const Tensor& like, Sizes size) {
  return allocate(like, size, like.scalar_type());
}

void check_parameter(const Tensor& vector, int64_t size, const Tensor& like, const char* name) {
  check_dim(vector, 1, name);
  check_size(vector, 0, size, name);
  if (vector.scalar_type() != like.scalar_type()) {
    check_dtype(vector, compute_dtype(like), name);
  }
  check_device(vector, like, name);
}

Tensor convert(const Tensor& tensor, ScalarType dtype) {
  if (tensor.scalar_type() == dtype) {
    return make_contiguous(tensor);
  }
  // The dispatcher takes longer than this many elements.
  constexpr int64_t kFew = 1024;
  if (!tensor.is_cpu() || tensor.numel() > kFew || !tensor.is_contiguous()) {
    return make_contiguous(torch::stable::to(tensor, dtype));
  }
  const Tensor result = allocate(tensor, tensor.sizes(), dtype);
  with_floating_type(dtype, "dtype",
                     [&](auto zero) { copy_values(tensor, mutable_data<decltype(zero)>(result)); });
  return result;
}

Tensor allocate_like(const Tensor& like) {
  return has_gap_or_overlap(like)
             ? allocate(like, like.sizes(), dense_strides(like), like.scalar_type())
             : allocate(like, like.sizes(), like.strides(), like.scalar_type());
}

bool suggests_channels_last(const Tensor& tensor) {
  if ((tensor.dim() != 4 && tensor.dim() != 5) || tensor.is_contiguous() || tensor.stride(1) == 0) {
    return false;
  }
  // Dense in that order, whatever the strides of sizes of 1; or, with gaps, by torch's rule for
  // what those leave open: from the channels outwards strides do not shrink, and that of N is not
  // the channels' own, as that of an [N, 1, H, W] image would be.
  bool dense = true;
  bool ordered = true;
  int64_t expected = 1;
  int64_t least = 0;
  for (int64_t i = 0; i < tensor.dim(); ++i) {
    const int64_t dim = i == 0 ? 1 : i == tensor.dim() - 1 ? 0 : tensor.dim() - i;
    const int64_t size = tensor.size(dim);
    const int64_t stride = tensor.stride(dim);
    dense = dense && (size == 1 || stride == expected);
    ordered = ordered && size != 0 && stride >= least && !(dim == 0 && least == tensor.stride(1));
    expected *= size;
    least = stride * size;
  }
  return dense || ordered;
}

Tensor allocate_dense(const Tensor& like, bool channels_last) {
  std::vector<int64_t> strides = contiguous_strides(like.sizes());
  if (channels_last) {
    int64_t stride = std::max<int64_t>(1, like.size(1));
    strides[1] = 1;
    for (int64_t i = like.dim() - 1; i >= 1; --i) {
      const int64_t dim = i == 1 ? 0 : i;
      strides[dim] = stride;
      stride *= std::max<int64_t>(1, like.size(dim));
    }
  }
  return allocate(like, like.sizes(), strides, like.scalar_type());
}

}  // namespace makemore_ext
