// Times kernels alone, on one thread: no tensors, no operators, no autograd, memory that is reused.
//
// A case is a line of the input, `batch_norm DTYPE OUTER CHANNELS INNER ACTIVATION` or
// `cross_entropy DTYPE ROWS CLASSES`; INNER below 0 is channels last. Printed for each are the
// seconds of forward and of backward, and of one pass over the bytes that each has to read and
// write; for cross entropy those of the loss and of the loss with its gradient. The first line
// printed is the clock of the core, in Hz, from additions that wait for each other.
#include "cpu/batch_norm/kernels.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <iostream>
#include <memory>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "arguments.h"
#include "cpu/cross_entropy/kernels.h"
#include "cpu/parallel.h"

using namespace makemore_ext;

namespace makemore_ext::cpu {
void parallel_for(int64_t count, RangeFunction function, const void* context) {
  function(0, count, context);
}
}  // namespace makemore_ext::cpu

namespace {

namespace kernels = cpu::MAKEMORE_EXT_CAPABILITY;

double now() {
  const auto since_start = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration<double>(since_start).count();
}

// The least of many times: what a call takes when nobody is in its way.
template <typename Call>
double seconds(const Call& call) {
  constexpr double kLong = 0.02, kMeasured = 50e-6;
  call();
  const double start = now();
  call();
  const auto repeats = std::max<int64_t>(1, static_cast<int64_t>(kMeasured / (now() - start)));
  double best = 1e9;
  for (const double end = now() + kLong; now() < end;) {
    const double begin = now();
    for (int64_t i = 0; i < repeats; ++i) {
      call();
    }
    best = std::min(best, (now() - begin) / static_cast<double>(repeats));
  }
  return best;
}

double clock_rate() {
  constexpr int64_t kSteps = 2'000'000;
  int64_t sum = 0;
  return kSteps / seconds([&] {
           for (int64_t step = 0; step < kSteps; ++step) {
             asm volatile("" : "+r"(sum += 1));
           }
         });
}

template <typename T>
T from_float(float value) {
  if constexpr (std::is_same_v<T, BFloat16>) {
    uint32_t bits;
    std::memcpy(&bits, &value, sizeof(bits));
    return {static_cast<uint16_t>(bits >> 16)};
  } else {
    return value;
  }
}

// Elements drawn from N(0.3, 1), from the start of a page.
template <typename T>
class Elements {
 public:
  explicit Elements(int64_t count)
      : bytes_(count * static_cast<int64_t>(sizeof(T))),
        memory_(static_cast<T*>(std::aligned_alloc(4096, (bytes_ / 4096 + 1) * 4096)), std::free) {
    std::mt19937 generator(1);
    std::normal_distribution<float> draw(0.3F, 1);
    std::generate_n(data(), count, [&] { return from_float<T>(draw(generator)); });
  }
  T* data() const { return memory_.get(); }
  int64_t bytes() const { return bytes_; }

 private:
  int64_t bytes_;
  std::unique_ptr<T, decltype(&std::free)> memory_;
};

// One pass that reads some of these and writes one, or none where it is null.
template <typename T>
double pass(const std::vector<const Elements<T>*>& read, const Elements<T>* written) {
  typedef int32_t Line __attribute__((vector_size(64)));
  constexpr int64_t kLine = sizeof(Line);
  const auto bytes_of = [](const Elements<T>* of) { return reinterpret_cast<char*>(of->data()); };
  return seconds([&] {
    Line sums[4] = {};
    for (int64_t i = 0; i + 4 * kLine <= read[0]->bytes(); i += 4 * kLine) {
      for (int64_t line = 0; line < 4; ++line) {
        const int64_t at = i + line * kLine;
        Line sum = written == nullptr ? sums[line] : Line{};
        for (const auto* of : read) {
          Line loaded;
          std::memcpy(&loaded, bytes_of(of) + at, kLine);
          sum += loaded;
        }
        if (written != nullptr) {
          std::memcpy(bytes_of(written) + at, &sum, kLine);
        }
        sums[line] = sum;
      }
    }
    asm volatile("" ::"m"(sums) : "memory");
  });
}

template <typename T>
void batch_norm(int64_t outer, int64_t channels, int64_t inner, Activation activation) {
  const bool is_last = inner < 0;
  inner = std::abs(inner);
  const int64_t count = outer * channels * inner;
  const Elements<T> x(count), y(count), grad_y(count), grad_x(count);
  const std::vector<Compute<T>> weight(channels, 1.5F), bias(channels, 0.5F);
  std::vector<Compute<T>> grad_weight(channels), grad_bias(channels);
  std::vector<double> statistics(3 * channels);
  const auto view = [&](auto* data) {
    using Element = std::remove_pointer_t<decltype(data)>;
    return is_last ? ChannelView<Element>{data, channels, 1, channels}
                   : ChannelView<Element>{data, channels * inner, inner, 1};
  };
  const auto read = [&](const Elements<T>& of) { return view(static_cast<const T*>(of.data())); };
  const ChannelShape shape =
      is_last ? ChannelShape{outer * inner, channels, 1} : ChannelShape{outer, channels, inner};
  const BatchNormArguments<T> arguments{shape, read(x), weight.data(), bias.data(),
                                        true,  0,       1e-5,          activation};
  const bool is_linear = activation == Activation::none;
  const BatchNormGradients<T> gradients{read(grad_y),
                                        is_linear ? ChannelView<const T>{} : read(y),
                                        nullptr,
                                        view(grad_x.data()),
                                        grad_weight.data(),
                                        grad_bias.data(),
                                        nullptr};
  const auto table = kernels::table<cpu::BatchNormKernels<T>>();
  const double forward =
      seconds([&] { table.forward(arguments, statistics.data(), view(y.data())); });
  const double backward = seconds([&] { table.backward(arguments, statistics.data(), gradients); });
  std::vector<const Elements<T>*> inputs{&x, &grad_y};
  if (!is_linear) {
    inputs.push_back(&y);
  }
  std::printf("%g %g %g %g\n", forward, backward, pass<T>({&x}, &y), pass<T>(inputs, &grad_x));
}

template <typename T>
void cross_entropy(int64_t rows, int64_t classes) {
  const Elements<T> logits(rows * classes), gradient(rows * classes);
  std::vector<int64_t> target(rows);
  std::mt19937 generator(2);
  std::generate(target.begin(), target.end(),
                [&] { return static_cast<int64_t>(generator() % classes); });
  std::vector<double> statistics(3 * rows);
  Compute<T> loss;
  double total_weight;
  CrossEntropyArguments<T> arguments{};
  arguments.shape = {rows, classes, 1, {rows}};
  arguments.logits = {logits.data(), 1, {classes}};
  arguments.target = {target.data(), nullptr};
  arguments.ignore_index = -100;
  arguments.reduction = Reduction::mean;
  const auto table = kernels::table<cpu::CrossEntropyKernels<T>>();
  const auto with = [&](const RowView<T>& grad_logits) {
    return seconds(
        [&] { table.forward(arguments, &loss, statistics.data(), &total_weight, grad_logits); });
  };
  const double alone = with({}), both = with({gradient.data(), 1, {classes}});
  std::printf("%g %g %g %g\n", alone, both, pass<T>({&logits}, nullptr),
              pass<T>({&logits}, &gradient));
}

template <typename T>
void measure(const std::string& operation) {
  int64_t rows, width;
  std::cin >> rows >> width;
  if (operation == "cross_entropy") {
    return cross_entropy<T>(rows, width);
  }
  int64_t inner;
  std::string activation;
  std::cin >> inner >> activation;
  batch_norm<T>(rows, width, inner, activation == "tanh" ? Activation::tanh : Activation::none);
}

}  // namespace

int main() {
  std::printf("%g\n", clock_rate());
  std::string operation, dtype;
  while (std::cin >> operation >> dtype) {
    dtype == "bfloat16" ? measure<BFloat16>(operation) : measure<float>(operation);
  }
}
