// What the tests of the kernels call directly: the functions of vectors element by element, and the
// plain forms of the operations.
#include <cstdint>

#include "../../csrc/cpu/batch_norm/plain.h"
#include "../../csrc/cpu/cross_entropy/plain.h"
#include "../../csrc/cpu/embedding/plain.h"
#include "../../csrc/cpu/simd/elementary.h"
#include "../../csrc/cpu/simd/vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {
namespace {

// y[i] = function(x[i]), a vector at a time and then the remainder.
template <typename From, typename To, Vec<Compute<From>> function(Vec<Compute<From>>)>
void map(const From* x, To* y, int64_t count) {
  constexpr int64_t lanes = kLanes<From>;
  int64_t i = 0;
  for (; i + lanes <= count; i += lanes) {
    store(y + i, function(load(x + i)));
  }
  if (i < count) {
    store_partial(y + i, function(load_partial(x + i, count - i, 0)), count - i);
  }
}

template <typename T>
Vec<T> identity(Vec<T> x) {
  return x;
}

}  // namespace

#define MAP(name, From, To, function)                                                        \
  extern "C" [[gnu::visibility("default")]] void name(const From* x, To* y, int64_t count) { \
    map<From, To, function>(x, y, count);                                                    \
  }

MAP(exp_float32, float, float, exp<float>)
MAP(exp_float64, double, double, exp<double>)
MAP(exp_nonpositive_float32, float, float, exp_nonpositive<float>)
MAP(log_float32, float, float, log<float>)
MAP(log_float64, double, double, log<double>)
MAP(tanh_float32, float, float, tanh<float>)
MAP(tanh_float64, double, double, tanh<double>)
MAP(widen_float16, Half, float, identity<float>)
MAP(widen_bfloat16, BFloat16, float, identity<float>)
MAP(narrow_float16, float, Half, identity<float>)
MAP(narrow_bfloat16, float, BFloat16, identity<float>)

// x, grad_output, y and dx: [outer, channels, inner]; weight, bias, dweight and dbias: [channels];
// statistics: [3, channels], read where training is false.
extern "C" [[gnu::visibility("default")]] void plain_batch_norm(
    const double* x, const double* grad_output, const double* weight, const double* bias,
    int64_t outer, int64_t channels, int64_t inner, bool training, double correction, double eps,
    int64_t activation, double* statistics, double* y, double* dx, double* dweight, double* dbias) {
  const ChannelShape shape{outer, channels, inner};
  const auto view = [&]<typename T>(T* data) {
    return ChannelView<T>{data, channels * inner, inner, 1};
  };
  const BatchNormArguments<double> arguments{
      shape, view(x), weight, bias, training, correction, eps, static_cast<Activation>(activation)};
  const BatchNormGradients<double> gradients{view(grad_output),
                                             view(static_cast<const double*>(y)),
                                             nullptr,
                                             view(dx),
                                             dweight,
                                             dbias,
                                             nullptr};
  for (int64_t channel = 0; channel < channels; ++channel) {
    const PlainChannel<double> plain(arguments, channel);
    double* const mean = statistics + channel;
    double* const variance = mean + channels;
    double* const invstd = variance + channels;
    const ChannelStatistics known =
        training ? plain.statistics() : ChannelStatistics{*mean, *variance, *invstd};
    *mean = known.mean;
    *variance = known.variance;
    *invstd = known.invstd;
    for (int64_t i = 0; i < shape.per_channel(); ++i) {
      *view(y).at(shape, channel, i) = plain.y(i, known);
    }
    const ChannelGradients sums = plain.gradients(known, gradients);
    for (int64_t i = 0; i < shape.per_channel(); ++i) {
      *view(dx).at(shape, channel, i) = plain.dx(i, known, sums, gradients);
    }
    dweight[channel] = sums.weight;
    dbias[channel] = sums.bias;
  }
}

// x, q and dx: [rows, classes]; grad_loss, grad_lse, loss and lse: [rows]; weight: [classes] or
// null.
extern "C" [[gnu::visibility("default")]] void plain_cross_entropy(
    const double* x, const double* q, const double* weight, int64_t rows, int64_t classes,
    double label_smoothing, double lse_square_scale, const double* grad_loss,
    const double* grad_lse, double* loss, double* lse, double* dx) {
  for (int64_t i = 0; i < rows; ++i) {
    const PlainRow row{x + i * classes, q + i * classes, weight,
                       classes,         label_smoothing, lse_square_scale};
    loss[i] = row.loss();
    lse[i] = row.lse();
    row.gradient(grad_loss[i], grad_lse[i], dx + i * classes);
  }
}

extern "C" [[gnu::visibility("default")]] void plain_embedding(const double* grad_output,
                                                               const int64_t* indices,
                                                               int64_t tokens, int64_t vocabulary,
                                                               int64_t features,
                                                               double* grad_weight) {
  plain_embedding_backward(grad_output, indices, tokens, vocabulary, features, grad_weight);
}

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
