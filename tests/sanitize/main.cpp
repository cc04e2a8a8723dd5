// Takes steps of the fused MLP, and runs batch norm, on arrays that are exactly as large as they
// must be, so that a sanitizer sees every access beyond them. Exits with 1 if a loss is not a
// number.
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <new>
#include <random>
#include <type_traits>
#include <vector>

#include "batch_norm/kernels.h"
#include "fused_mlp/kernels.h"
#include "parallel.h"

namespace makemore_ext::cpu {

// In two parts, as two threads would.
void parallel_for(int64_t count, RangeFunction function, const void* context) {
  function(count / 2, count, context);
  function(0, count / 2, context);
}

namespace {

template <typename T>
bool take_steps(const MLPSizes& sizes, int64_t batch_size, bool momentum) {
  const auto [V, K, D, H] = sizes;
  const auto& kernels = cpu::kernels<FusedMLPKernels<T>>();
  constexpr int64_t kWindows = 40, kSteps = 3;
  std::mt19937 random(1);
  std::normal_distribution<double> normal;

  const int64_t counts[kMLPParameters] = {V * D, K * D * H, H, H * V, V, H, H};
  std::vector<T> values[3][kMLPParameters];  // parameters, momentum buffers, gradients
  MLPArrays<T> arrays[3] = {};
  for (int set = 0; set < 3; ++set) {
    for (int parameter = 0; parameter < kMLPParameters; ++parameter) {
      values[set][parameter].resize(counts[parameter]);
      arrays[set].of[parameter] = values[set][parameter].data();
    }
  }
  for (auto& parameter : values[0]) {
    for (T& value : parameter) {
      value = static_cast<T>(normal(random));
    }
  }
  const auto indices = [&](int64_t count, int64_t limit) {
    std::vector<int64_t> result(count);
    for (int64_t& index : result) {
      index = static_cast<int64_t>(random() % limit);
    }
    return result;
  };
  const auto x = indices(kWindows * K, V), y = indices(kWindows, V);
  const auto minibatches = indices(kSteps * batch_size, kWindows);

  const auto bytes = static_cast<std::size_t>(kernels.workspace(sizes, batch_size));
  const auto free = [](void* memory) { ::operator delete(memory, std::align_val_t(64)); };
  const std::unique_ptr<void, decltype(free)> workspace(::operator new(bytes, std::align_val_t(64)),
                                                        free);
  std::memset(workspace.get(), 0, bytes);

  const MLPTask<T> task{sizes,      arrays[0],      x.data(), y.data(), minibatches.data(),
                        batch_size, workspace.get()};
  const std::vector<double> lr(kSteps, 0.01);
  const MLPDescent<T> descent{kSteps, lr.data(), momentum ? 0.9 : 0.0, 1e-3,
                              momentum ? arrays[1] : MLPArrays<T>{}};
  std::vector<T> losses(kSteps);
  kernels.train(task, descent, losses.data());
  bool finite = std::isfinite(kernels.loss_and_gradients(task, arrays[2]));
  for (const T loss : losses) {
    finite = finite && std::isfinite(loss);
  }
  return finite;
}

// Forward and backward, with channels side by side or in planes. Elements of one repeated value but
// the first, so that narrow types need no conversion.
template <typename T>
void batch_norm(const ChannelShape& shape, Activation activation, bool training, T value, T first) {
  const auto& kernels = cpu::kernels<BatchNormKernels<T>>();
  const auto elements = static_cast<std::size_t>(shape.elements());
  std::vector<T> x(elements, value), y(elements), dx(elements);
  x[0] = first;
  const auto view = [&](auto& array) {
    using Element = std::remove_reference_t<decltype(array[0])>;
    return ChannelView<Element>{array.data(), shape.channels * shape.inner, shape.inner, 1};
  };
  const auto read = [&](const std::vector<T>& array) { return view(array); };
  std::vector<Compute<T>> weight(shape.channels, 1), grad_weight(shape.channels),
      grad_bias(shape.channels);
  std::vector<double> statistics(3 * shape.channels, 1.0);
  const BatchNormArguments<T> arguments{shape,    read(x), weight.data(), nullptr,
                                        training, 0,       1e-5,          activation};
  kernels.forward(arguments, statistics.data(), {});
  kernels.forward(arguments, statistics.data(), view(y));
  std::vector<double> sums(2 * shape.channels);
  const ChannelView<const T> output =
      activation == Activation::none ? ChannelView<const T>{} : read(y);
  kernels.backward(
      arguments, statistics.data(),
      {read(x), output, nullptr, view(dx), grad_weight.data(), grad_bias.data(), sums.data()});
  kernels.backward(arguments, statistics.data(),
                   {read(x), output, sums.data(), view(dx), nullptr, nullptr, nullptr});
}

void batch_norms() {
  const ChannelShape shapes[] = {{2, 1, 1},     {33, 200, 1}, {3000, 45, 1}, {1, 3, 70},
                                 {4, 50, 9},    {3, 5, 400},  {2, 3, 70000}, {1100, 5, 3},
                                 {2, 40000, 1}, {20, 3, 150}, {1100, 2, 3}};
  for (const ChannelShape& shape : shapes) {
    for (const auto activation : {Activation::none, Activation::tanh, Activation::relu}) {
      for (const bool training : {true, false}) {
        batch_norm<float>(shape, activation, training, 0.5f, 3e38f);
        batch_norm<double>(shape, activation, training, 0.5, 2.0);
        batch_norm<BFloat16>(shape, activation, training, {0x3f00}, {0x4000});
        batch_norm<Half>(shape, activation, training, {0x3800}, {0x4000});
      }
    }
  }
}

}  // namespace

}  // namespace makemore_ext::cpu

int main() {
  using namespace makemore_ext::cpu;
  const MLPSizes all_sizes[] = {{27, 3, 10, 200}, {27, 3, 10, 64}, {27, 3, 10, 129}, {1, 1, 1, 1},
                                {5, 2, 1, 33},    {900, 4, 17, 7}, {32, 3, 16, 512}};
  for (const MLPSizes& sizes : all_sizes) {
    for (const int64_t batch_size : {2, 32, 33, 400}) {
      for (const bool momentum : {false, true}) {
        if (!take_steps<float>(sizes, batch_size, momentum) ||
            !take_steps<double>(sizes, batch_size, momentum)) {
          std::printf("not finite: V %ld, K %ld, D %ld, H %ld, n %ld\n", sizes.vocabulary,
                      sizes.context, sizes.embedding, sizes.hidden, batch_size);
          return 1;
        }
      }
    }
  }
  batch_norms();
  std::printf("%s: no error\n", capability_name());
}
