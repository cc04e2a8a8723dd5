// Batch norm over channels in planes, as those of contiguous images: the elements of a plane follow
// each other, planes of one channel are apart.
#pragma once

#include <algorithm>
#include <cstdint>
#include <iterator>
#include <type_traits>

#include "../../arguments.h"
#include "../scratch.h"
#include "../simd/group.h"
#include "../simd/reduce.h"
#include "../simd/vec.h"
#include "passes.h"
#include "rows.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Planes of fewer elements are worked on as columns of a matrix.
template <typename T>
inline constexpr int64_t kShortestPlane = 8 * kLanes<std::remove_const_t<T>>;

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
  static constexpr bool kReadsAhead = true;

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
  static constexpr bool kReadsAhead = true;

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
        sums_(grid_.channels * grid_.pieces() * 2) {}

  int64_t blocks() const { return grid_.blocks(); }
  int64_t pieces() const { return grid_.pieces(); }
  Range channels(int64_t block) const {
    const int64_t first = block * grid_.block_channels;
    return {first, std::min(grid_.channels, first + grid_.block_channels)};
  }

  // The centres from the mean of a few elements.
  void sample_centres(int64_t block) const {
    const int64_t samples = std::min(kSamples, grid_.per_channel);
    const auto [begin, end] = channels(block);
    for (int64_t channel = begin; channel < end; ++channel) {
      C mean = 0;
      for (int64_t sample = 0; sample < samples; ++sample) {
        const int64_t index = sample * grid_.per_channel / samples;
        mean += load_one(pass_.input().at(pass_.shape(), channel, index)) / static_cast<C>(samples);
      }
      pass_.sums().centre[channel] = centre_near<T>(mean);
    }
  }

  // A channel's centre and parameters are read where they are.
  void spread_centres(int64_t) const {}
  void spread_parameters(int64_t) const {}

  void sum(int64_t block, int64_t piece) const {
    const auto [begin, end] = channels(block);
    for (int64_t channel = begin; channel < end; ++channel) {
      sum_channel(channel, piece);
    }
  }

  // Adds up the sums of the pieces, in order.
  void join_sums(int64_t block) const {
    const auto [begin, end] = channels(block);
    for (int64_t channel = begin; channel < end; ++channel) {
      double first = 0, second = 0;
      for (int64_t piece = 0; piece < grid_.pieces(); ++piece) {
        first += sums(channel, piece)[0];
        second += sums(channel, piece)[1];
      }
      pass_.sums().first[channel] = first;
      pass_.sums().second[channel] = second;
    }
  }

  void write(int64_t block, int64_t piece) const {
    const auto [begin, end] = channels(block);
    for (int64_t channel = begin; channel < end; ++channel) {
      const auto parameters = GroupParameters<T>::all(pass_.parameters(), channel);
      for_each_stretch(piece, [&](int64_t outer, int64_t planes, int64_t first, int64_t count) {
        const PlanePlace place{channel, outer, first, inner()};
        pass_.write(place, [&](Rows<T> result, const auto& groups) {
          if (is_streamed<T>(pass_.shape())) {
            write_channel<true>(result, planes, count, parameters, groups);
          } else {
            write_channel<false>(result, planes, count, parameters, groups);
          }
        });
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
  static constexpr int64_t kShortBytes = 1024;
  static constexpr int64_t kSums = kLineGroups<T> * kGroup<T>;  // that are taken side by side

  const Pass& pass_;
  PlaneGrid grid_;
  Scratch<double> sums_;  // [channels, pieces, 2]

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

  void sum_channel(int64_t channel, int64_t piece) const {
    Group<T> centre;
    for (int v = 0; v < kGroupVectors<T>; ++v) {
      centre.of[v] = broadcast(pass_.sums().centre[channel]);
    }
    alignas(64) double first[kSums] = {};
    alignas(64) double second[kSums] = {};
    const GroupSums of_lanes{first, second};
    for_each_stretch(piece, [&](int64_t outer, int64_t planes, int64_t begin, int64_t count) {
      if (planes > 1 && inner() * static_cast<int64_t>(sizeof(T)) <= kShortBytes) {
        add_across({channel, 0, 0, inner()}, planes, centre, of_lanes);
        return;
      }
      for (int64_t plane = outer; plane < outer + planes; ++plane) {
        add_along({{channel, plane, begin, inner()}}, count, centre, of_lanes);
      }
    });
    sums(channel, piece)[0] = over_lanes(first);
    sums(channel, piece)[1] = over_lanes(second);
  }

  static double over_lanes(const double (&lanes)[kSums]) {
    Vec<double> sum = load(lanes);
    for (int64_t i = kLanes<double>; i < kSums; i += kLanes<double>) {
      sum += load(lanes + i);
    }
    return horizontal_sum<double>(sum);
  }

  // The sums of neighbours in one plane, in rows of one group.
  void add_along(const GroupPlace& place, int64_t count, const Group<T>& centre,
                 const GroupSums& sums) const {
    pass_.sum(place, [&](const auto& terms) {
      const int64_t groups = count / kGroup<T>;
      const Group<T> centres[] = {centre};
      add_rows<false>({0, groups}, 0, kGroup<T>, false, centres, sums, terms);
      if (const int64_t rest = count % kGroup<T>; rest > 0) {
        add_rows<true>({groups, groups + 1}, 0, rest, false, centres, sums, terms);
      }
    });
  }

  // The sums of short planes, where a plane has few groups: in rows of one plane.
  void add_across(const PlanePlace& place, int64_t planes, const Group<T>& centre,
                  const GroupSums& sums) const {
    const bool by_lines = share_places<T>(pass_.input().outer_stride);
    pass_.sum(place, [&](const auto& terms) {
      for (int64_t plane = 0; plane < planes; plane += kSummedRows) {
        const Range rows{plane, std::min(planes, plane + kSummedRows)};
        for_each_line<T>(
            0, inner(), by_lines, [&](auto partial, auto groups, int64_t at, int64_t count) {
              Group<T> centres[decltype(groups)::value];
              std::fill(std::begin(centres), std::end(centres), centre);
              add_rows<decltype(partial)::value>(rows, at, count, false, centres, sums, terms);
            });
      }
    });
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
