// Batch norm over channels in planes, as those of contiguous images: the elements of a plane follow
// each other, planes of one channel are apart.
#pragma once

#include <algorithm>
#include <cstdint>

#include "../../arguments.h"
#include "../scratch.h"
#include "../simd/group.h"
#include "../simd/vec.h"
#include "passes.h"
#include "rows.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Planes of fewer elements are worked on as columns of a matrix.
template <typename T>
inline constexpr int64_t kShortestPlane = 8 * kLanes<T>;

// A block is some channels where all their planes stay in the cache, else one, cut in pieces.
struct PlaneGrid {
  int64_t channels;
  int64_t per_channel;
  int64_t block_channels;
  int64_t piece_elements;

  template <typename T>
  static PlaneGrid of(const ChannelShape& shape) {
    constexpr int64_t kCellElements = 16384;
    constexpr int64_t kFewChannels = 16;
    constexpr int64_t kOnePieceBytes = 512 * 1024;
    constexpr int64_t kOnePieceBytesFew = 64 * 1024;
    const int64_t per_channel = std::max<int64_t>(1, shape.per_channel());
    const bool one_piece = per_channel * static_cast<int64_t>(sizeof(T)) <=
                           (shape.channels < kFewChannels ? kOnePieceBytesFew : kOnePieceBytes);
    return {shape.channels, per_channel,
            one_piece ? std::clamp<int64_t>(kCellElements / per_channel, 1, shape.channels) : 1,
            one_piece ? per_channel : kCellElements};
  }
  int64_t blocks() const { return (channels + block_channels - 1) / block_channels; }
  int64_t pieces() const { return (per_channel + piece_elements - 1) / piece_elements; }
};

template <typename Pass>
class Planes {
 public:
  using T = typename Pass::Element;
  using C = Compute<T>;

  explicit Planes(const Pass& pass)
      : pass_(pass),
        grid_(PlaneGrid::of<T>(pass.shape())),
        centres_(grid_.channels),
        parameters_(grid_.channels * kPassParameters),
        sums_(grid_.channels * grid_.pieces() * 2) {}

  int64_t blocks() const { return grid_.blocks(); }
  int64_t pieces() const { return grid_.pieces(); }
  bool sums_needed() const { return pass_.sums_needed(); }
  bool result_needed() const { return pass_.result_needed(); }

  // The centres: those the pass has, or the mean of a few elements.
  void begin(int64_t block) const {
    for_each_channel(block, [&](int64_t channel) {
      C& centre = centres_.data()[channel];
      centre = pass_.centre(channel);
      if constexpr (Pass::kChooseCentre) {
        const int64_t samples = std::min(kSamples, grid_.per_channel);
        double sum = 0;
        for (int64_t i = 0; i < samples; ++i) {
          const int64_t index = i * grid_.per_channel / samples;
          sum += static_cast<double>(load_one(pass_.input().at(pass_.shape(), channel, index))) /
                 static_cast<double>(samples);
        }
        centre = centre_near<T>(static_cast<C>(sum));
      }
    });
  }

  void add(int64_t block, int64_t piece) const {
    pass_.with_sums([&](auto activation) { add<decltype(activation)::value>(block, piece); });
  }

  bool finish(int64_t block) const {
    bool exact = true;
    for_each_channel(block, [&](int64_t channel) {
      const double* sums = sums_.data() + channel * grid_.pieces() * 2;
      double first = 0;
      double second = 0;
      for (int64_t piece = 0; piece < grid_.pieces(); ++piece) {
        first += sums[2 * piece];
        second += sums[2 * piece + 1];
      }
      exact = pass_.finish(channel, first, second, centres_.data()[channel]) && exact;
    });
    return exact;
  }

  void prepare(int64_t block) const {
    for_each_channel(block, [&](int64_t channel) {
      if (!sums_needed()) {
        pass_.finish(channel);
      }
      pass_.parameters(channel, parameters_.data() + channel * kPassParameters);
    });
  }

  void apply(int64_t block, int64_t piece) const {
    for_each_channel(block, [&](int64_t channel) {
      ChannelParameters<T> parameters;
      for (int parameter = 0; parameter < kPassParameters; ++parameter) {
        parameters.of[parameter] =
            broadcast(parameters_.data()[channel * kPassParameters + parameter]);
      }
      for_each_part(piece, [&](int64_t outer, int64_t planes, int64_t begin, int64_t count) {
        pass_.apply(locate(outer, channel, begin), planes, count, parameters);
      });
      const int64_t begin = piece * grid_.piece_elements;
      pass_.apply_extreme(channel, begin,
                          std::min(grid_.per_channel, begin + grid_.piece_elements));
    });
  }

 private:
  static constexpr int64_t kSamples = 8;
  static constexpr int64_t kChunkPlanes = 16;
  static constexpr int64_t kPage = 4096;
  static constexpr int64_t kShortBytes = 1024;
  static constexpr int64_t kNextPlaneBytes = 16 * 1024;

  const Pass& pass_;
  PlaneGrid grid_;
  Scratch<C> centres_;     // [channels]
  Scratch<C> parameters_;  // [channels, kPassParameters]
  Scratch<double> sums_;   // [channels, pieces, 2]

  template <typename Body>
  void for_each_channel(int64_t block, const Body& body) const {
    const int64_t begin = block * grid_.block_channels;
    const int64_t end = std::min(grid_.channels, begin + grid_.block_channels);
    for (int64_t channel = begin; channel < end; ++channel) {
      body(channel);
    }
  }

  // Calls body(outer, planes, begin, count) for what a piece consists of: [begin, begin + count) of
  // some planes from `outer` on.
  template <typename Body>
  void for_each_part(int64_t piece, const Body& body) const {
    const int64_t inner = pass_.shape().inner;
    if (grid_.pieces() == 1) {
      body(0, pass_.shape().outer, 0, inner);
      return;
    }
    const int64_t begin = piece * grid_.piece_elements;
    const int64_t end = std::min(grid_.per_channel, begin + grid_.piece_elements);
    for (int64_t i = begin; i < end;) {
      const int64_t outer = i / inner;
      const int64_t next = std::min(end, (outer + 1) * inner);
      body(outer, 1, i - outer * inner, next - i);
      i = next;
    }
  }

  template <Activation activation>
  void add(int64_t block, int64_t piece) const {
    for_each_channel(block, [&](int64_t channel) {
      Group<T> centre;
      for (int v = 0; v < kGroupVectors<T>; ++v) {
        centre.of[v] = broadcast(centres_.data()[channel]);
      }
      alignas(64) double first[kGroup<T>] = {};
      alignas(64) double second[kGroup<T>] = {};
      const GroupSums<T> of_lanes{{first, kGroup<T>}, {second, kGroup<T>}};
      for_each_part(piece, [&](int64_t outer, int64_t planes, int64_t begin, int64_t count) {
        if (planes > 1 && plane_bytes() <= kShortBytes) {
          add_across<activation>(channel, planes, centre, of_lanes);
          return;
        }
        for (int64_t plane = outer; plane < outer + planes; ++plane) {
          add_along<activation>(locate(plane, channel, begin, true), count, centre, of_lanes);
        }
      });
      double* sums = sums_.data() + (channel * grid_.pieces() + piece) * 2;
      sums[0] = sums[1] = 0;
      for (int64_t i = 0; i < kGroup<T>; ++i) {
        sums[0] += first[i];
        sums[1] += second[i];
      }
    });
  }

  int64_t plane_bytes() const { return pass_.shape().inner * static_cast<int64_t>(sizeof(T)); }

  // The sums of neighbours in one plane, in rows of one group.
  template <Activation activation, typename Locate>
  void add_along(const Locate& locate, int64_t count, const Group<T>& centre,
                 const GroupSums<T>& sums) const {
    const int64_t groups = count / kGroup<T>;
    pass_.template add<false, activation>(locate, groups, 0, kGroup<T>, centre, 0, sums);
    if (const int64_t rest = count % kGroup<T>; rest > 0) {
      pass_.template add<true, activation>(locate, 1, groups * kGroup<T>, rest, centre, 0, sums);
    }
  }

  // The sums of short planes, where a plane has few groups: in rows of one plane.
  template <Activation activation>
  void add_across(int64_t channel, int64_t planes, const Group<T>& centre,
                  const GroupSums<T>& sums) const {
    for (int64_t plane = 0; plane < planes; plane += kChunkPlanes) {
      const auto rows = locate(plane, channel, 0);
      const int64_t count_rows = std::min(kChunkPlanes, planes - plane);
      for_each_group<T>(0, pass_.shape().inner, [&](auto partial, int64_t at, int64_t count) {
        pass_.template add<decltype(partial)::value, activation>(rows, count_rows, at, count,
                                                                 centre, 0, sums);
      });
    }
  }

  // Planes as rows, or part of one in rows of one group each. Memory is asked for where the next
  // channel's plane is, or the same part of the next plane, or else a page ahead.
  auto locate(int64_t outer, int64_t channel, int64_t index, bool in_groups = false) const {
    const int64_t bytes = plane_bytes();
    return [=](const auto& view) {
      const int64_t next_plane = view.outer_stride * static_cast<int64_t>(sizeof(T));
      return Rows{view.data + outer * view.outer_stride + channel * view.channel_stride + index,
                  in_groups ? kGroup<T> : view.outer_stride,
                  !in_groups                 ? bytes
                  : bytes <= kNextPlaneBytes ? next_plane
                                             : kPage};
    };
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
