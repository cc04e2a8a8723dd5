// Batch norm over channels that lie side by side, (N, C) or channels last: a matrix with a column
// for each channel. Planes of few elements are worked on so too, with as many columns a channel as
// its planes have elements.
#pragma once

#include <algorithm>
#include <cstdint>
#include <numeric>

#include "../../arguments.h"
#include "../scratch.h"
#include "../simd/group.h"
#include "../simd/reduce.h"
#include "../simd/vec.h"
#include "passes.h"
#include "rows.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Rows whose sums are taken together: few, as rows a power of two apart share the places of a
// cache. 8 and 32 measured the same within the noise (benchmarks/tuning.py).
inline constexpr int64_t kChunkRows = 16;

// Rows of neighbouring columns, in any view of the call.
struct ColumnPlace {
  int64_t column;
  int64_t row;
  int64_t step = 1;  // from row to row

  // Memory is asked for where the next chunk of rows is, or else further on in the same row.
  template <typename T>
  MAKEMORE_EXT_INLINE Rows<T> in(const ChannelView<T>& view) const {
    constexpr int64_t kShortBytes = 16 * 1024;
    constexpr int64_t kAheadBytes = 512;
    const int64_t chunk = kChunkRows * view.outer_stride * static_cast<int64_t>(sizeof(T));
    return {view.data + row * view.outer_stride + column, step * view.outer_stride,
            chunk <= kShortBytes ? chunk : kAheadBytes};
  }
};

// Columns in blocks, rows in pieces. Few rows make one piece, so that a block of columns stays in
// the cache; many rows are cut in pieces of whole rows where they are not too wide. Each piece has
// sums of its own: it has many rows, so that those are few beside the elements.
struct ColumnGrid {
  int64_t rows;
  int64_t columns;
  int64_t block_columns;
  int64_t piece_rows;

  template <typename T>
  static ColumnGrid of(const ChannelShape& shape) {
    constexpr int64_t kOnePieceRows = 1024;
    // 64 KiB of floats: input, gradient and result fit the second-level cache. Half of it was
    // slower at 256x200, twice of it as fast (benchmarks/tuning.py).
    constexpr int64_t kOnePieceElements = 16384;
    constexpr int64_t kNarrowest = 128 / sizeof(T);  // two cache lines
    constexpr int64_t kWidest = 4096;
    constexpr int64_t kPieceRows = 256;
    constexpr int64_t kMostPieces = 64;
    const int64_t per_channel = shape.inner;
    const int64_t rows = std::max<int64_t>(1, shape.outer);
    const int64_t columns = shape.channels * per_channel;
    const bool one_piece = rows <= kOnePieceRows;
    const int64_t width = one_piece ? std::max(kNarrowest, kOnePieceElements / rows) : kWidest;
    const int64_t unit = per_channel == 1 ? kNarrowest : per_channel;
    const int64_t block_columns = std::min(columns, (width + unit - 1) / unit * unit);
    const int64_t piece_rows = std::max(kPieceRows, (rows + kMostPieces - 1) / kMostPieces);
    return {rows, columns, block_columns, one_piece ? rows : piece_rows};
  }
  int64_t blocks() const { return (columns + block_columns - 1) / block_columns; }
  int64_t pieces() const { return (rows + piece_rows - 1) / piece_rows; }
};

template <typename Pass>
class Columns {
 public:
  using T = typename Pass::Element;
  using C = Compute<T>;

  // is_dense: rows follow each other without gaps.
  Columns(const Pass& pass, bool is_dense)
      : pass_(pass),
        per_channel_(pass.shape().inner),
        grid_(ColumnGrid::of<T>(pass.shape())),
        is_one_row_(is_dense && grid_.blocks() == 1 && grid_.columns % kGroupVectors<T> == 0),
        width_((grid_.block_columns + kGroup<T> - 1) / kGroup<T> * kGroup<T> + kGroup<T>),
        values_(grid_.blocks() * kValues * width_ + kHalfPage / sizeof(C)),
        first_value_(values_.data() + skipped(pass.result(), values_.data() + kCentre * width_)),
        sums_(pass.needs_sums() ? grid_.blocks() * grid_.pieces() * 2 * width_ : 0) {}

  int64_t blocks() const { return grid_.blocks(); }
  int64_t pieces() const { return grid_.pieces(); }
  int64_t first_channel(int64_t block) const { return block * grid_.block_columns / per_channel_; }
  int64_t channels(int64_t block) const { return columns(block) / per_channel_; }

  // Before anything else is set: arrays are read in whole groups, beyond the last column too.
  void clear(int64_t block) const { std::fill_n(values(block, 0).data, kValues * width_, C(0)); }

  // `i` counts the channels of the block.
  void set_centre(int64_t block, int64_t i, C centre) const {
    fill(values(block, kSumCentre), i, centre);
  }

  // The centres from the mean of a few rows.
  void sample_centres(int64_t block) const {
    const Values centres = values(block, kSumCentre);
    const int64_t wanted = (kSamples + per_channel_ - 1) / per_channel_;
    const int64_t samples = std::min(wanted, grid_.rows);
    const double share = 1.0 / static_cast<double>(samples);
    const ColumnPlace place{first_column(block), 0, grid_.rows / samples};
    for_each_group<T>(0, columns(block), [&](auto partial, int64_t column, int64_t count) {
      alignas(64) double sum[kGroup<T>] = {};
      alignas(64) double unused[kGroup<T>] = {};
      const GroupSums<T> sums{{sum, kGroup<T>}, {unused, kGroup<T>}};
      pass_.template add<decltype(partial)::value, Activation::none>(place, samples, column, count,
                                                                     Group<T>{}, 0, sums);
      for (int64_t i = 0; i < kGroup<T>; ++i) {
        centres[column + i] = centre_near<T>(static_cast<C>(sums.first[i] * share));
      }
    });
    for (int64_t i = 0; per_channel_ > 1 && i < channels(block); ++i) {
      C sum = 0;
      centres.for_each_run(i * per_channel_, per_channel_, [&](const C* begin, const C* end) {
        sum = std::accumulate(begin, end, sum);
      });
      set_centre(block, i, centre_near<T>(sum / static_cast<C>(per_channel_)));
    }
  }

  void sum(int64_t block, int64_t piece) const {
    pass_.with_sums([&](auto activation) { sum<decltype(activation)::value>(block, piece); });
  }

  // Adds up the sums of the pieces, in order, to those of the first.
  void join_pieces(int64_t block) const {
    const GroupSums<T> total = sums(block, 0);
    for (int64_t piece = 1; piece < grid_.pieces(); ++piece) {
      const double* other = sums(block, piece).first.data;
      for (int64_t i = 0; i < 2 * width_; ++i) {
        total.first.data[i] += other[i];
      }
    }
  }

  ChannelSums<C> channel_sums(int64_t block, int64_t i) const {
    const GroupSums<T> total = sums(block, 0);
    return {over_columns(total.first, i), over_columns(total.second, i),
            values(block, kSumCentre)[i * per_channel_]};
  }

  // of_channel(i) gives them.
  template <typename OfChannel>
  void set_parameters(int64_t block, const OfChannel& of_channel) const {
    const Values centre = values(block, kCentre), scale = values(block, kScale);
    const Values shift = values(block, kShift), slope = values(block, kSlope);
    for (int64_t i = 0; i < channels(block); ++i) {
      const Parameters<C> parameters = of_channel(i);
      fill(centre, i, parameters.centre);
      fill(scale, i, parameters.scale);
      fill(shift, i, parameters.shift);
      fill(slope, i, parameters.slope);
    }
    for (const Values& array : {centre, scale, shift, slope}) {
      for (int64_t i = 0; is_one_row_ && i < kGroup<T>; ++i) {
        array[grid_.columns + i] = array[i];
      }
    }
  }

  void write(int64_t block, int64_t piece) const {
    const auto [begin, end] = rows(piece);
    const ColumnParameters<T> parameters(values(block, kCentre).data, width_, columns(block));
    const int64_t count = is_one_row_ ? 1 : end - begin;
    pass_.write(ColumnPlace{first_column(block), begin}, count,
                (end - begin) / count * columns(block), parameters);
  }

  // Which of a channel's elements those of a piece are.
  Range elements(int64_t piece) const {
    const auto [begin, end] = rows(piece);
    return {begin * per_channel_, end * per_channel_};
  }

 private:
  // Values of each column: the centre of its sums, and Parameters.
  enum Value { kSumCentre, kCentre, kScale, kShift, kSlope, kValues };
  using Values = GroupArray<T, C>;

  static constexpr int64_t kSamples = 8;
  static constexpr std::uintptr_t kHalfPage = 2048;

  const Pass& pass_;
  int64_t per_channel_;
  ColumnGrid grid_;
  bool is_one_row_;  // the result, for what writes it, with parameters that repeat
  int64_t width_;    // of the arrays of a block: a group that starts in the last one fits too
  Scratch<C> values_;
  C* first_value_;        // [blocks, kValues, width_], each row a GroupArray
  Scratch<double> sums_;  // [blocks, pieces, 2, width_], likewise

  // 4K aliasing: a load waits for any store to the same place of another page. Rows of a power of
  // two would meet the parameters there again and again while the result is written, so these begin
  // a quarter of a page after it, pages and halves of them aside: here are the values to leave out
  // for that, in whole cache lines.
  static int64_t skipped(const T* result, const C* parameters) {
    const auto apart =
        reinterpret_cast<std::uintptr_t>(result) - reinterpret_cast<std::uintptr_t>(parameters);
    return static_cast<int64_t>((apart + kHalfPage / 2) % kHalfPage / 64 * (64 / sizeof(C)));
  }

  Values values(int64_t block, int which) const {
    return {first_value_ + (block * kValues + which) * width_, width_};
  }
  GroupSums<T> sums(int64_t block, int64_t piece) const {
    double* first = sums_.data() + (block * grid_.pieces() + piece) * 2 * width_;
    return {{first, width_}, {first + width_, width_}};
  }
  int64_t first_column(int64_t block) const { return block * grid_.block_columns; }
  int64_t columns(int64_t block) const {
    return std::min(grid_.block_columns, grid_.columns - first_column(block));
  }
  Range rows(int64_t piece) const {
    const int64_t begin = piece * grid_.piece_rows;
    return {begin, std::min(grid_.rows, begin + grid_.piece_rows)};
  }

  template <Activation activation>
  void sum(int64_t block, int64_t piece) const {
    const Values centres = values(block, kSumCentre);
    const GroupSums<T> of_piece = sums(block, piece);
    std::fill_n(of_piece.first.data, 2 * width_, 0.0);
    const auto [begin, end] = rows(piece);
    for (int64_t row = begin; row < end; row += kChunkRows) {
      const ColumnPlace place{first_column(block), row};
      const int64_t count_rows = std::min(kChunkRows, end - row);
      for_each_group<T>(0, columns(block), [&](auto partial, int64_t column, int64_t count) {
        Group<T> centre;
        for (int v = 0; v < kGroupVectors<T>; ++v) {
          centre.of[v] = load(centres.vector(column, v));
        }
        pass_.template add<decltype(partial)::value, activation>(place, count_rows, column, count,
                                                                 centre, column, of_piece);
      });
    }
  }

  // Gives all columns of a channel the same value.
  void fill(const Values& array, int64_t i, C value) const {
    if (per_channel_ == 1) {
      array[i] = value;
      return;
    }
    array.for_each_run(i * per_channel_, per_channel_,
                       [&](C* begin, C* end) { std::fill(begin, end, value); });
  }

  // The sum of all columns of a channel.
  double over_columns(const GroupArray<T, double>& array, int64_t i) const {
    if (per_channel_ == 1) {
      return array[i];
    }
    Vec<double> lanes{};
    double rest = 0;
    array.for_each_run(i * per_channel_, per_channel_, [&](const double* begin, const double* end) {
      for (; end - begin >= kLanes<double>; begin += kLanes<double>) {
        lanes += load(begin);
      }
      rest = std::accumulate(begin, end, rest);
    });
    return horizontal_sum<double>(lanes) + rest;
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
