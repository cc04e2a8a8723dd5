// Batch norm over channels in planes, as those of contiguous images: the elements of a plane follow
// each other, planes of one channel are apart.
#pragma once

#include <algorithm>
#include <cstdint>
#include <type_traits>

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
    constexpr int64_t kPieceElements = 16384;
    constexpr int64_t kFewChannels = 16;
    constexpr int64_t kOnePieceBytes = 512 * 1024;
    constexpr int64_t kOnePieceBytesFew = 64 * 1024;
    const int64_t per_channel = std::max<int64_t>(1, shape.per_channel());
    const bool one_piece = per_channel * static_cast<int64_t>(sizeof(T)) <=
                           (shape.channels < kFewChannels ? kOnePieceBytesFew : kOnePieceBytes);
    return {shape.channels, per_channel,
            one_piece ? std::clamp<int64_t>(kPieceElements / per_channel, 1, shape.channels) : 1,
            one_piece ? per_channel : kPieceElements};
  }
  int64_t blocks() const { return (channels + block_channels - 1) / block_channels; }
  int64_t pieces() const { return (per_channel + piece_elements - 1) / piece_elements; }
};

// Planes as rows, in any view of the call.
struct PlanePlace {
  int64_t channel;
  int64_t outer;  // the first plane
  int64_t index;  // of an element in it
  int64_t inner;  // elements of a plane

  // Memory is asked for where the next channel's plane is.
  template <typename T>
  MAKEMORE_EXT_INLINE Rows<T> in(const ChannelView<T>& view) const {
    return {view.data + outer * view.outer_stride + channel * view.channel_stride + index,
            view.outer_stride, inner * static_cast<int64_t>(sizeof(T))};
  }
};

// One plane in rows of a group each.
struct GroupPlace {
  PlanePlace plane;

  // Memory is asked for where the same part of the next plane is, or else a page ahead.
  template <typename T>
  MAKEMORE_EXT_INLINE Rows<T> in(const ChannelView<T>& view) const {
    constexpr int64_t kNextPlaneBytes = 16 * 1024;
    constexpr int64_t kPage = 4096;
    const auto [data, next_plane, bytes] = plane.in(view);
    return {data, kGroup<std::remove_const_t<T>>,
            bytes <= kNextPlaneBytes ? next_plane * static_cast<int64_t>(sizeof(T)) : kPage};
  }
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
        parameters_(grid_.channels),
        sums_(grid_.channels * grid_.pieces() * 2) {}

  int64_t blocks() const { return grid_.blocks(); }
  int64_t pieces() const { return grid_.pieces(); }
  int64_t first_channel(int64_t block) const { return block * grid_.block_channels; }
  int64_t channels(int64_t block) const {
    return std::min(grid_.block_channels, grid_.channels - first_channel(block));
  }

  void clear(int64_t) const {}

  // `i` counts the channels of the block.
  void set_centre(int64_t block, int64_t i, C centre) const {
    centres_.data()[first_channel(block) + i] = centre;
  }

  // The centres from the mean of a few elements.
  void sample_centres(int64_t block) const {
    for (int64_t i = 0; i < channels(block); ++i) {
      const int64_t channel = first_channel(block) + i;
      const int64_t samples = std::min(kSamples, grid_.per_channel);
      double sum = 0;
      for (int64_t sample = 0; sample < samples; ++sample) {
        const int64_t index = sample * grid_.per_channel / samples;
        sum += static_cast<double>(load_one(pass_.input().at(pass_.shape(), channel, index))) /
               static_cast<double>(samples);
      }
      set_centre(block, i, centre_near<T>(static_cast<C>(sum)));
    }
  }

  void sum(int64_t block, int64_t piece) const {
    pass_.with_sums([&](auto activation) {
      for (int64_t i = 0; i < channels(block); ++i) {
        sum<decltype(activation)::value>(first_channel(block) + i, piece);
      }
    });
  }

  // Adds up the sums of the pieces, in order, to those of the first.
  void join_pieces(int64_t block) const {
    for (int64_t i = 0; i < channels(block); ++i) {
      double* total = sums(first_channel(block) + i, 0);
      for (int64_t piece = 1; piece < grid_.pieces(); ++piece) {
        total[0] += total[2 * piece];
        total[1] += total[2 * piece + 1];
      }
    }
  }

  ChannelSums<C> channel_sums(int64_t block, int64_t i) const {
    const int64_t channel = first_channel(block) + i;
    const double* total = sums(channel, 0);
    return {total[0], total[1], centres_.data()[channel]};
  }

  // of_channel(i) gives them.
  template <typename OfChannel>
  void set_parameters(int64_t block, const OfChannel& of_channel) const {
    for (int64_t i = 0; i < channels(block); ++i) {
      parameters_.data()[first_channel(block) + i] = of_channel(i);
    }
  }

  void write(int64_t block, int64_t piece) const {
    for (int64_t i = 0; i < channels(block); ++i) {
      const int64_t channel = first_channel(block) + i;
      const ChannelParameters<T> parameters(parameters_.data()[channel]);
      for_each_stretch(piece, [&](int64_t outer, int64_t planes, int64_t begin, int64_t count) {
        pass_.write(PlanePlace{channel, outer, begin, inner()}, planes, count, parameters);
      });
    }
  }

  // Which of a channel's elements those of a piece are.
  Range elements(int64_t piece) const {
    const int64_t begin = piece * grid_.piece_elements;
    return {begin, std::min(grid_.per_channel, begin + grid_.piece_elements)};
  }

 private:
  static constexpr int64_t kSamples = 8;
  static constexpr int64_t kChunkPlanes = 16;
  static constexpr int64_t kShortBytes = 1024;

  const Pass& pass_;
  PlaneGrid grid_;
  Scratch<C> centres_;                 // [channels]
  Scratch<Parameters<C>> parameters_;  // [channels]
  Scratch<double> sums_;               // [channels, pieces, 2]

  int64_t inner() const { return pass_.shape().inner; }
  double* sums(int64_t channel, int64_t piece) const {
    return sums_.data() + (channel * grid_.pieces() + piece) * 2;
  }

  // Calls body(outer, planes, begin, count) for what a piece consists of: [begin, begin + count) of
  // some planes from `outer` on.
  template <typename Body>
  void for_each_stretch(int64_t piece, const Body& body) const {
    if (grid_.pieces() == 1) {
      body(0, pass_.shape().outer, 0, inner());
      return;
    }
    const auto [begin, end] = elements(piece);
    for (int64_t i = begin; i < end;) {
      const int64_t outer = i / inner();
      const int64_t next = std::min(end, (outer + 1) * inner());
      body(outer, 1, i - outer * inner(), next - i);
      i = next;
    }
  }

  template <Activation activation>
  void sum(int64_t channel, int64_t piece) const {
    Group<T> centre;
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      centre.of[v] = broadcast(centres_.data()[channel]);
    }
    alignas(64) double first[kGroup<T>] = {};
    alignas(64) double second[kGroup<T>] = {};
    const GroupSums<T> of_lanes{{first, kGroup<T>}, {second, kGroup<T>}};
    for_each_stretch(piece, [&](int64_t outer, int64_t planes, int64_t begin, int64_t count) {
      if (planes > 1 && inner() * static_cast<int64_t>(sizeof(T)) <= kShortBytes) {
        add_across<activation>(channel, planes, centre, of_lanes);
        return;
      }
      for (int64_t plane = outer; plane < outer + planes; ++plane) {
        add_along<activation>({{channel, plane, begin, inner()}}, count, centre, of_lanes);
      }
    });
    double* total = sums(channel, piece);
    total[0] = total[1] = 0;
    for (int64_t i = 0; i < kGroup<T>; ++i) {
      total[0] += first[i];
      total[1] += second[i];
    }
  }

  // The sums of neighbours in one plane, in rows of one group.
  template <Activation activation>
  void add_along(const GroupPlace& place, int64_t count, const Group<T>& centre,
                 const GroupSums<T>& sums) const {
    const int64_t groups = count / kGroup<T>;
    pass_.template add<false, activation>(place, groups, 0, kGroup<T>, centre, 0, sums);
    if (const int64_t rest = count % kGroup<T>; rest > 0) {
      pass_.template add<true, activation>(place, 1, groups * kGroup<T>, rest, centre, 0, sums);
    }
  }

  // The sums of short planes, where a plane has few groups: in rows of one plane.
  template <Activation activation>
  void add_across(int64_t channel, int64_t planes, const Group<T>& centre,
                  const GroupSums<T>& sums) const {
    for (int64_t plane = 0; plane < planes; plane += kChunkPlanes) {
      const PlanePlace place{channel, plane, 0, inner()};
      const int64_t count_rows = std::min(kChunkPlanes, planes - plane);
      for_each_group<T>(0, inner(), [&](auto partial, int64_t at, int64_t count) {
        pass_.template add<decltype(partial)::value, activation>(place, count_rows, at, count,
                                                                 centre, 0, sums);
      });
    }
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
