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

// Rows of neighbouring columns, in any view of the call. `ahead`: memory is asked for where the
// next rows to be summed are. In a cache that takes longer than it saves.
template <bool ahead>
struct ColumnPlace {
  static constexpr bool kReadsAhead = ahead;

  int64_t column;
  int64_t row;
  int64_t step;  // from row to row

  template <typename T>
  MAKEMORE_EXT_INLINE Rows<T> in(const ChannelView<T>& view) const {
    const int64_t stride = step * view.outer_stride;
    return {view.data + row * view.outer_stride + column, stride,
            kSummedRows * stride * static_cast<int64_t>(sizeof(T))};
  }
};

// Columns in blocks, rows in pieces. Rows are whole where they are not too wide, as memory is read
// and written twice as fast along rows as in parts of them: two reads of whole rows take less than
// one of parts that stay in the cache until they are written. Each piece has sums of its own: it
// has many rows, so that those are few beside the elements.
//
// Rows that follow each other without gaps are joined, as many as fill whole cache lines: no vector
// crosses two lines, or is a part of one. What is left over of the rows is a last one, shorter.
struct ColumnGrid {
  int64_t columns;  // of one row
  int64_t joined;   // rows in one
  int64_t rows;     // joined ones
  int64_t rest;     // columns of the last, shorter row
  int64_t block_columns;
  int64_t piece_rows;

  // is_dense: rows follow each other without gaps.
  template <typename T>
  static ColumnGrid of(const ChannelShape& shape, bool is_dense) {
    constexpr int64_t kOnePieceElements = 131072;
    constexpr int64_t kPieceElements = 65536;
    constexpr int64_t kNarrowest = 1024;
    constexpr int64_t kWidest = 4096;
    constexpr int64_t kPieceRows = 64;
    constexpr int64_t kMostPieces = 64;
    const int64_t columns = shape.channels * shape.inner;
    const int64_t joined = is_dense ? joined_rows<T>(shape.outer, columns) : 1;
    const int64_t rows = shape.outer / joined;
    const int64_t most =
        std::clamp(kOnePieceElements / std::max<int64_t>(1, rows), kNarrowest, kWidest);
    const int64_t unit = shape.inner == 1 ? kNarrowest : shape.inner;
    const int64_t block_columns = std::min(columns * joined, (most + unit - 1) / unit * unit);
    const bool one_piece = rows * block_columns <= kOnePieceElements;
    const int64_t piece_rows =
        std::max({kPieceRows, kPieceElements / std::max<int64_t>(1, block_columns),
                  (rows + kMostPieces - 1) / kMostPieces});
    return {columns,       joined,
            rows,          shape.outer % joined * columns,
            block_columns, one_piece ? std::max<int64_t>(1, rows) : piece_rows};
  }

  template <typename T>
  static int64_t joined_rows(int64_t rows, int64_t columns) {
    constexpr int64_t kLine = 64;
    constexpr int64_t kMostColumns = 1024;
    constexpr int64_t kFewestRows = 16;
    const int64_t joined = kLine / std::gcd(kLine, columns * static_cast<int64_t>(sizeof(T)));
    return joined * columns <= kMostColumns && rows / joined >= kFewestRows ? joined : 1;
  }
  int64_t width() const { return columns * joined; }
  int64_t blocks() const { return (width() + block_columns - 1) / block_columns; }
  int64_t pieces() const { return std::max<int64_t>(1, (rows + piece_rows - 1) / piece_rows); }
};

template <typename Pass>
class Columns {
 public:
  using T = typename Pass::Element;
  using C = Compute<T>;

  Columns(const Pass& pass, bool is_dense)
      : pass_(pass),
        per_channel_(pass.shape().inner),
        grid_(ColumnGrid::of<T>(pass.shape(), is_dense)),
        size_((grid_.block_columns + kGroup<T> - 1) / kGroup<T> * kGroup<T>),
        values_(grid_.blocks() * kValues * size_ + kHalfPage / sizeof(C)),
        first_value_(values_.data() +
                     skipped(pass.result().data, values_.data() + kCentre * size_)),
        sums_(pass.needs_sums() ? grid_.blocks() * grid_.pieces() * 2 * size_ : 0) {}

  int64_t blocks() const { return grid_.blocks(); }
  int64_t pieces() const { return grid_.pieces(); }
  Range channels(int64_t block) const {
    const int64_t first = first_column(block) / per_channel_;
    return {first, first + columns(block) / grid_.joined / per_channel_};
  }

  // The centres from the mean of a few rows.
  void sample_centres(int64_t block) const {
    const int64_t all = pass_.shape().outer;
    const int64_t samples =
        std::clamp<int64_t>(all / kSamples, 1, (kSamples + per_channel_ - 1) / per_channel_);
    const C share = C(1) / static_cast<C>(samples);
    const auto rows = ColumnPlace<false>{first_column(block), 0, all / samples}.in(pass_.input());
    C* const mean = values(block, kSumCentre);
    for_each_group<T>(
        0, columns(block) / grid_.joined, [&](auto partial, int64_t column, int64_t count) {
          Group<T> sum{};
          for (int64_t row = 0; row < samples; ++row) {
            const auto x = load_group<decltype(partial)::value>(rows.at(row) + column, count);
            for (int v = 0; v < kGroupVectors<T>; ++v) {
              sum.of[v] += x.of[v] * share;
            }
          }
          store_values<T>(mean + column, in_memory_order(sum));
        });
    const auto [begin, end] = channels(block);
    C* const centre = pass_.sums().centre + begin;
    join_inner(mean, centre, end - begin);
    for (int64_t i = 0; i < end - begin; ++i) {
      centre[i] = centre_near<T>(centre[i] / static_cast<C>(per_channel_));
    }
    spread_centres(block);
  }

  // The centres that the channels have.
  void spread_centres(int64_t block) const {
    spread(pass_.sums().centre, values(block, kSumCentre), block);
  }

  void sum(int64_t block, int64_t piece) const {
    const auto take = [&](const auto& terms) { sum(block, piece, terms); };
    if (is_streamed<T>(pass_.shape())) {
      pass_.sum(ColumnPlace<true>{first_column(block), 0, grid_.joined}, take);
    } else {
      pass_.sum(ColumnPlace<false>{first_column(block), 0, grid_.joined}, take);
    }
  }

  // Adds up the sums of the pieces, in order, and those of the columns of a channel.
  void join_sums(int64_t block) const {
    const GroupSums total = sums(block, 0);
    for (int64_t piece = 1; piece < grid_.pieces(); ++piece) {
      const double* const other = sums(block, piece).first;
      for (int64_t i = 0; i < 2 * size_; ++i) {
        total.first[i] += other[i];
      }
    }
    join_columns(total.first, pass_.sums().first, block);
    join_columns(total.second, pass_.sums().second, block);
  }

  // The parameters that the channels have.
  void spread_parameters(int64_t block) const {
    const Parameters<C*> to = parameters(block);
    const Parameters<C*>& from = pass_.parameters();
    spread(from.centre, to.centre, block);
    spread(from.scale, to.scale, block);
    spread(from.shift, to.shift, block);
    spread(from.slope, to.slope, block);
  }

  void write(int64_t block, int64_t piece) const {
    const ColumnPlace<false> place{first_column(block), 0, grid_.joined};
    pass_.write(place, [&](const Rows<T>& result, const auto& groups) {
      if (is_streamed<T>(pass_.shape()) && is_aligned(result)) {
        write<true>(block, piece, result, groups);
      } else {
        write<false>(block, piece, result, groups);
      }
    });
  }

  // Which of a channel's elements those of a piece are.
  Range elements(int64_t piece) const {
    const auto [begin, end] = rows(piece);
    const int64_t per_row = grid_.joined * per_channel_;
    return {begin * per_row, end < grid_.rows ? end * per_row : pass_.shape().outer * per_channel_};
  }

 private:
  // Values of each column, in the order of a group's vectors: the centre of its sums, and
  // Parameters.
  enum Value { kSumCentre, kCentre, kScale, kShift, kSlope, kValues };

  static constexpr int64_t kSamples = 8;
  // Rows that are written together, with the parameters of a group in registers. From and to memory
  // one after the other, which is what the hardware reads ahead.
  template <bool streamed>
  static constexpr int64_t kWrittenRows = streamed ? 1 : 4;
  static constexpr std::uintptr_t kHalfPage = 2048;

  const Pass& pass_;
  int64_t per_channel_;
  ColumnGrid grid_;
  int64_t size_;  // of the arrays of a block, in whole groups
  Scratch<C> values_;
  C* first_value_;        // [blocks, kValues, size_]
  Scratch<double> sums_;  // [blocks, pieces, 2, size_]

  // 4K aliasing: a load waits for any store to the same place of another page. Rows of a power of
  // two would meet the parameters there again and again while the result is written, so these begin
  // a quarter of a page after it, pages and halves of them aside: here are the values to leave out
  // for that, in whole cache lines.
  static int64_t skipped(const T* result, const C* parameters) {
    const auto apart =
        reinterpret_cast<std::uintptr_t>(result) - reinterpret_cast<std::uintptr_t>(parameters);
    return static_cast<int64_t>((apart + kHalfPage / 2) % kHalfPage / 64 * (64 / sizeof(C)));
  }

  static bool is_aligned(const Rows<T>& rows) {
    return elements_to_alignment(rows.data, kGroupBytes<T>) == 0 &&
           rows.stride * static_cast<int64_t>(sizeof(T)) % kGroupBytes<T> == 0;
  }

  C* values(int64_t block, int which) const {
    return first_value_ + (block * kValues + which) * size_;
  }
  Parameters<C*> parameters(int64_t block) const {
    return {values(block, kCentre), values(block, kScale), values(block, kShift),
            values(block, kSlope)};
  }
  GroupSums sums(int64_t block, int64_t piece) const {
    double* const first = sums_.data() + (block * grid_.pieces() + piece) * 2 * size_;
    return {first, first + size_};
  }
  int64_t first_column(int64_t block) const { return block * grid_.block_columns; }
  int64_t columns(int64_t block) const {
    return std::min(grid_.block_columns, grid_.width() - first_column(block));
  }
  Range rows(int64_t piece) const {
    const int64_t begin = piece * grid_.piece_rows;
    return {begin, std::min(grid_.rows, begin + grid_.piece_rows)};
  }
  // Of the shorter row, where it is in that piece.
  int64_t rest(int64_t piece) const { return piece + 1 == grid_.pieces() ? grid_.rest : 0; }

  // Gives all columns of a channel its value.
  void spread(const C* of_channel, C* array, int64_t block) const {
    const auto [begin, end] = channels(block);
    C* at = array;
    for (int64_t row = 0; row < grid_.joined; ++row) {
      if (per_channel_ == 1) {
        at = std::copy(of_channel + begin, of_channel + end, at);
        continue;
      }
      for (int64_t channel = begin; channel < end; ++channel) {
        at = std::fill_n(at, per_channel_, of_channel[channel]);
      }
    }
    std::fill(at, array + size_, C(0));
    to_vector_order<T>(array, size_);
  }

  // The sums of all columns of a channel.
  void join_columns(double* array, double* of_channel, int64_t block) const {
    const auto [begin, end] = channels(block);
    const int64_t columns = (end - begin) * per_channel_;
    for (int64_t row = 1; row < grid_.joined; ++row) {
      const double* const other = array + row * columns;
      for (int64_t i = 0; i < columns; ++i) {
        array[i] += other[i];
      }
    }
    join_inner(array, of_channel + begin, end - begin);
  }

  // The sums of the neighbouring columns that are of one channel.
  template <typename Value>
  void join_inner(const Value* array, Value* of_channel, int64_t channels) const {
    if (per_channel_ == 1) {
      std::copy(array, array + channels, of_channel);
      return;
    }
    for (int64_t channel = 0; channel < channels; ++channel) {
      const Value* const first = array + channel * per_channel_;
      Vec<Value> lanes{};
      int64_t i = 0;
      for (; i + kLanes<Value> <= per_channel_; i += kLanes<Value>) {
        lanes += load(first + i);
      }
      of_channel[channel] =
          std::accumulate(first + i, first + per_channel_, horizontal_sum<Value>(lanes));
    }
  }

  template <typename Terms>
  void sum(int64_t block, int64_t piece, const Terms& terms) const {
    const GroupSums of_piece = sums(block, piece);
    std::fill_n(of_piece.first, 2 * size_, 0.0);
    const auto [begin, end] = rows(piece);
    for (int64_t row = begin; row < end; row += kSummedRows) {
      const int64_t last = std::min(end, row + kSummedRows);
      add(block, {row, last}, columns(block), of_piece, terms);
    }
    add(block, {end, end + 1}, rest(piece), of_piece, terms);
  }

  template <typename Terms>
  MAKEMORE_EXT_INLINE void add(int64_t block, Range rows, int64_t columns, const GroupSums& sums,
                               const Terms& terms) const {
    const C* const centres = values(block, kSumCentre);
    const bool are_few = pass_.shape().per_channel() < kFewElements;
    const bool by_lines = share_places<T>(grid_.joined * pass_.input().outer_stride);
    for_each_line<T>(
        0, columns, by_lines, [&](auto partial, auto groups, int64_t column, int64_t count) {
          constexpr int kGroups = decltype(groups)::value;
          Group<T> of_groups[kGroups];
          for (int group = 0; group < kGroups; ++group) {
            of_groups[group] = load_values<T>(centres + column + group * kGroup<T>);
          }
          add_rows<decltype(partial)::value, kGroups>(rows, column, count, are_few, of_groups,
                                                      {sums.first + column, sums.second + column},
                                                      terms);
        });
  }

  template <bool streamed, typename Groups>
  void write(int64_t block, int64_t piece, const Rows<T>& result, const Groups& groups) const {
    const Parameters<C*> parameters = this->parameters(block);
    const auto [begin, end] = rows(piece);
    for (int64_t row = begin; row < end; row += kWrittenRows<streamed>) {
      write_columns<streamed>(result, {row, std::min(end, row + kWrittenRows<streamed>)},
                              columns(block), parameters, groups);
    }
    write_columns<streamed>(result, {end, end + 1}, rest(piece), parameters, groups);
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
