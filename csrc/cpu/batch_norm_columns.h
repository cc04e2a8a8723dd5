// Batch norm over channels that lie side by side, (N, C) or channels last: a matrix with a column
// for each channel. Planes of few elements are worked on so too, with as many columns a channel as
// its planes have elements.
#pragma once

#include <algorithm>
#include <cstdint>

#include "batch_norm_passes.h"
#include "batch_norm_strips.h"
#include "kernels.h"
#include "scratch.h"
#include "vec.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Rows of a strip that are worked on before the next strip of the same rows: few, as rows a power
// of two apart share the places of a cache.
inline constexpr int64_t kChunkRows = 16;

// Columns in blocks, rows in pieces. Few rows make one piece, so that a block of columns stays in
// the cache; many rows are cut in pieces of whole rows where they are not too wide.
struct ColumnGrid {
  int64_t rows;
  int64_t columns;
  int64_t block_columns;
  int64_t piece_rows;

  template <typename T>
  static ColumnGrid of(const ChannelShape& shape) {
    constexpr int64_t kCellElements = 16384;
    constexpr int64_t kOnePieceRows = 1024;
    constexpr int64_t kNarrowest = 128 / sizeof(T);  // two cache lines
    constexpr int64_t kWidest = 4096;
    const int64_t per_channel = shape.inner;
    const int64_t rows = std::max<int64_t>(1, shape.outer);
    const int64_t columns = shape.channels * per_channel;
    const bool one_piece = rows <= kOnePieceRows;
    const int64_t width = one_piece ? std::max(kNarrowest, kCellElements / rows) : kWidest;
    const int64_t unit = per_channel == 1 ? kNarrowest : per_channel;
    const int64_t block_columns = std::min(columns, (width + unit - 1) / unit * unit);
    const int64_t piece_rows = kCellElements / block_columns / kChunkRows * kChunkRows;
    return {rows, columns, block_columns, one_piece ? rows : std::max(kChunkRows, piece_rows)};
  }
  int64_t blocks() const { return (columns + block_columns - 1) / block_columns; }
  int64_t pieces() const { return (rows + piece_rows - 1) / piece_rows; }
};

template <typename Pass>
class Columns {
 public:
  using T = typename Pass::Element;
  using C = Compute<T>;

  explicit Columns(const Pass& pass)
      : pass_(pass),
        per_channel_(pass.shape().inner),
        grid_(ColumnGrid::of<T>(pass.shape())),
        width_((grid_.block_columns + kStripElements<T> - 1) / kStripElements<T> *
               kStripElements<T>),
        values_(grid_.blocks() * kValues * width_),
        sums_(pass.sums_needed() ? grid_.blocks() * grid_.pieces() * 2 * width_ : 0) {}

  int64_t blocks() const { return grid_.blocks(); }
  int64_t pieces() const { return grid_.pieces(); }
  bool sums_needed() const { return pass_.sums_needed(); }
  bool result_needed() const { return pass_.result_needed(); }

  // The centres: those the pass has, or the mean of a few rows.
  void begin(int64_t block) const {
    C* centres = values(block, kCentre);
    std::fill(centres, centres + width_, C(0));
    if constexpr (!Pass::kChooseCentre) {
      for_each_channel(block, [&](int64_t channel, int64_t column) {
        std::fill(centres + column, centres + column + per_channel_, pass_.centre(channel));
      });
    } else {
      const int64_t samples = std::min(kSamples, grid_.rows);
      const double share = 1.0 / static_cast<double>(samples);
      for_each_strip<T, 1>(columns(block), [&](auto strip, int64_t column, int64_t count) {
        alignas(64) double sum[kLanes<T>] = {};
        alignas(64) double unused[kLanes<T>] = {};
        for (int64_t i = 0; i < samples; ++i) {
          const int64_t row = i * grid_.rows / samples;
          add<decltype(strip)>(block, column, row, 1, count, centres + column, sum, unused);
        }
        for (int64_t i = 0; i < kLanes<T>; ++i) {
          centres[column + i] = centre_near<T>(static_cast<C>(sum[i] * share));
        }
      });
      if (per_channel_ > 1) {
        for_each_channel(block, [&](int64_t, int64_t column) {
          C sum = 0;
          for (int64_t i = 0; i < per_channel_; ++i) {
            sum += centres[column + i];
          }
          std::fill(centres + column, centres + column + per_channel_,
                    centre_near<T>(sum / static_cast<C>(per_channel_)));
        });
      }
    }
  }

  void add(int64_t block, int64_t piece) const {
    const C* centres = values(block, kCentre);
    double* first = sums(block, piece);
    double* second = first + width_;
    std::fill(first, first + 2 * width_, 0.0);
    const int64_t begin = piece * grid_.piece_rows;
    const int64_t end = std::min(grid_.rows, begin + grid_.piece_rows);
    for (int64_t row = begin; row < end; row += kChunkRows) {
      const int64_t rows = std::min(kChunkRows, end - row);
      for_each_strip<T, 1>(columns(block), [&](auto strip, int64_t column, int64_t count) {
        add<decltype(strip)>(block, column, row, rows, count, centres + column, first + column,
                             second + column);
      });
    }
  }

  bool finish(int64_t block) const {
    double* first = sums(block, 0);
    double* second = first + width_;
    for (int64_t piece = 1; piece < grid_.pieces(); ++piece) {
      const double* other = sums(block, piece);
      for (int64_t i = 0; i < 2 * width_; ++i) {
        first[i] += other[i];
      }
    }
    C* centres = values(block, kCentre);
    bool exact = true;
    for_each_channel(block, [&](int64_t channel, int64_t column) {
      double sum = first[column];
      double other = second[column];
      for (int64_t i = 1; i < per_channel_; ++i) {
        sum += first[column + i];
        other += second[column + i];
      }
      C centre = centres[column];
      if (!pass_.finish(channel, sum, other, centre)) {
        std::fill(centres + column, centres + column + per_channel_, centre);
        exact = false;
      }
    });
    return exact;
  }

  void prepare(int64_t block) const {
    C* parameters = values(block, kParameters);
    std::fill(parameters, parameters + kPassParameters * width_, C(0));
    for_each_channel(block, [&](int64_t channel, int64_t column) {
      if (!sums_needed()) {
        pass_.finish(channel);
      }
      C of_channel[kPassParameters];
      pass_.parameters(channel, of_channel);
      for (int parameter = 0; parameter < kPassParameters; ++parameter) {
        C* destination = parameters + parameter * width_ + column;
        std::fill(destination, destination + per_channel_, of_channel[parameter]);
      }
    });
  }

  void apply(int64_t block, int64_t piece) const {
    const C* parameters = values(block, kParameters);
    const int64_t begin = piece * grid_.piece_rows;
    const int64_t end = std::min(grid_.rows, begin + grid_.piece_rows);
    for (int64_t row = begin; row < end; row += kChunkRows) {
      const int64_t rows = std::min(kChunkRows, end - row);
      for_each_strip<T, kWideStrip>(columns(block), [&](auto strip, int64_t column, int64_t count) {
        pass_.template apply<decltype(strip)>(locate(block, column, row), rows, count,
                                              parameters + column, width_);
      });
    }
    for_each_channel(block, [&](int64_t channel, int64_t) {
      pass_.apply_extreme(channel, begin * per_channel_, end * per_channel_);
    });
  }

 private:
  enum Value { kCentre, kParameters, kValues = kParameters + kPassParameters };
  static constexpr int64_t kSamples = 8;

  const Pass& pass_;
  int64_t per_channel_;
  ColumnGrid grid_;
  int64_t width_;         // of the arrays of a block
  Scratch<C> values_;     // [blocks, kValues, width_]
  Scratch<double> sums_;  // [blocks, pieces, 2, width_]

  C* values(int64_t block, int which) const {
    return values_.data() + (block * kValues + which) * width_;
  }
  double* sums(int64_t block, int64_t piece) const {
    return sums_.data() + (block * grid_.pieces() + piece) * 2 * width_;
  }
  int64_t columns(int64_t block) const {
    return std::min(grid_.block_columns, grid_.columns - block * grid_.block_columns);
  }

  // Calls body(channel, its first column in the block).
  template <typename Body>
  void for_each_channel(int64_t block, const Body& body) const {
    const int64_t first = block * grid_.block_columns / per_channel_;
    const int64_t count = columns(block) / per_channel_;
    for (int64_t i = 0; i < count; ++i) {
      body(first + i, i * per_channel_);
    }
  }

  auto locate(int64_t block, int64_t column, int64_t row) const {
    const int64_t position = block * grid_.block_columns + column;
    return [position, row](const auto& view) {
      return StripRows{view.data + row * view.outer_stride + position, view.outer_stride};
    };
  }

  template <typename Strip>
  void add(int64_t block, int64_t column, int64_t row, int64_t rows, int64_t count,
           const C* centres, double* first, double* second) const {
    pass_.template add<Strip>(locate(block, column, row), rows, count, centres, first, second);
  }
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
