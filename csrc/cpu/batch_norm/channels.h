// What is known of each channel, an array for each value in the order of the channels. Formulas
// over channels are loops over these arrays, which the compiler makes loops of vectors.
#pragma once

#include <cmath>
#include <cstdint>

#include "../scratch.h"
#include "../simd/group.h"
#include "../simd/vec.h"
#include "plain.h"
#include "rows.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// statistics [3, channels] of elements of type T, one array for each row.
template <typename T, typename Value>
struct Statistics {
  Value* mean;
  Value* variance;
  Value* invstd;

  Statistics(Value* statistics, int64_t channels)
      : mean(statistics), variance(mean + channels), invstd(variance + channels) {}

  ChannelStatistics of(int64_t channel) const {
    return {mean[channel], variance[channel], invstd[channel]};
  }

  void set_invstd(Range channels, double eps) const {
    for_each_group<double>(
        channels.begin, channels.end, [&](auto partial, int64_t i, int64_t count) {
          constexpr bool kPartial = decltype(partial)::value;
          const Vec<double> squares = load_lanes<kPartial>(variance + i, count, 1.0) + eps;
          store_lanes<kPartial>(invstd + i, inverse_sqrt(squares), count);
        });
  }

  // The channels that vectors are not exact enough for.
  bool is_extreme(int64_t channel) const {
    return is_out_of_range<T>(mean[channel], variance[channel]);
  }
  bool any_extreme(Range channels) const {
    int64_t extreme = 0;
    for (int64_t channel = channels.begin; channel < channels.end; ++channel) {
      extreme += is_extreme(channel) ? 1 : 0;
    }
    return extreme > 0;
  }
};

// Two sums over each channel, and the value they are about. Forward: x - centre and its square;
// backward: dz and dz (x - centre).
template <typename C>
struct ChannelSums {
  double* first;
  double* second;
  C* centre;
};

// Where the sums and the parameters of all channels are during a call.
template <typename C>
class Channels {
 public:
  explicit Channels(int64_t channels)
      : doubles_(2 * channels),
        values_(5 * channels),
        sums{doubles_.data(), doubles_.data() + channels, values_.data()},
        parameters{values_.data() + channels, values_.data() + 2 * channels,
                   values_.data() + 3 * channels, values_.data() + 4 * channels} {}

 private:
  Scratch<double> doubles_;
  Scratch<C> values_;

 public:
  const ChannelSums<C> sums;
  const Parameters<C*> parameters;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
