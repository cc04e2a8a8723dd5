// Sums over classes for rows of few classes, as many rows at a time as a vector has lanes. What
// goes across lanes is done for all of them at once. Their exponentials are taken as one run of
// elements, which is a whole number of vectors however many classes there are.
#pragma once

#include <cstdint>
#include <limits>

#include "../simd/elementary.h"
#include "../simd/reduce.h"
#include "../simd/vec.h"
#include "../simd/wide.h"

namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY {

// Of more classes, what is saved at the ends of a row is less than another pass over it takes.
template <typename T>
inline constexpr int64_t kMostShortClasses = 256 / sizeof(Compute<T>) + 4 * kLanes<T>;

template <typename T>
class ShortRows {
 public:
  using C = Compute<T>;
  static constexpr int64_t kRows = kLanes<T>;  // at a time

  explicit ShortRows(int64_t classes) : classes_(classes) {}

  // What `terms` takes for kRows rows.
  int64_t elements() const { return kRows * classes_ + kLanes<T>; }

  // A row of the gradient that has no other part: scale exp(x_c - max), from the exponentials.
  void scale_row(const C* terms, C scale, T* dx) const {
    if (classes_ < kLanes<T>) {
      return store_partial(dx, load(terms) * scale, classes_);
    }
    for_each_vector<0>(terms, [&](int64_t c, Vec<C> term) { store(dx + c, term * scale); });
  }

  // From kRows rows one after the other: max_c x_c of each to max, sum_c exp(x_c - max) to sum_exp,
  // both [kRows], and the exponentials themselves to terms, [kRows, classes].
  void reduce(const T* x, C* terms, C* max, double* sum_exp) const {
    const C lowest = -std::numeric_limits<C>::infinity();
    const Vec<C> greatest = maxima<4>(x);
    store(max, greatest);
    // As in RowWorker::reduce_row; a vector that ends with the last row looks beyond it.
    C shift[kRows + 1] = {};
    store(shift, greatest == lowest ? Vec<C>{} : greatest);
    if (classes_ < kLanes<T>) {
      for (int64_t row = 0; row < kRows; ++row) {
        store(terms + row * classes_, load_row(x + row * classes_) - shift[row]);
      }
      exponentials(terms, terms, [](int64_t) { return Vec<C>{}; });
    } else {
      // A vector has elements of one row or two.
      int64_t row = 0, row_end = classes_;
      exponentials(x, terms, [&](int64_t i) {
        const auto is_first = lane_numbers<C>() < static_cast<Bits<C>>(row_end - i);
        const Vec<C> shifts = is_first ? broadcast(shift[row]) : broadcast(shift[row + 1]);
        if (row_end <= i + kLanes<T>) {
          row += 1;
          row_end += classes_;
        }
        return shifts;
      });
    }
    sum_rows<3>(terms, sum_exp);
  }

 private:
  // A row of fewer elements than a vector has.
  MAKEMORE_EXT_INLINE Vec<C> load_row(const T* x) const {
    return load_partial(x, classes_, -std::numeric_limits<C>::infinity());
  }

  // Calls body(c, elements) for the vectors of a row of which it has `vectors`, or any number where
  // that is 0. The last one starts early rather than ends late, and so holds some elements again.
  template <int vectors, typename Element, typename Body>
  MAKEMORE_EXT_INLINE void for_each_vector(const Element* x, const Body& body) const {
    const int64_t last = classes_ - kLanes<T>;
    for (int64_t c = 0; vectors == 0 ? c < last : c < (vectors - 1) * kLanes<T>; c += kLanes<T>) {
      body(c, load(x + c));
    }
    body(last, load(x + last));
  }

  // max_c x_c of each row. `vectors`: of which a row has fewer, or that many, or else 0.
  template <int vectors>
  Vec<C> maxima(const T* x) const {
    if constexpr (vectors > 1) {
      if ((vectors - 1) * kLanes<T> >= classes_) {
        return maxima<vectors - 1>(x);
      }
      if (vectors * kLanes<T> < classes_) {
        return maxima<0>(x);
      }
    }
    const auto greatest_of_row = [&](int row) {
      const T* const of_row = x + row * classes_;
      if constexpr (vectors == 1) {
        return load_row(of_row);
      } else {
        Vec<C> greatest = broadcast(-std::numeric_limits<C>::infinity());
        for_each_vector<vectors>(of_row, [&](int64_t, Vec<C> logits) {
          greatest = cpu::MAKEMORE_EXT_CAPABILITY::max<C>(logits, greatest);
        });
        return greatest;
      }
    };
    return across_lanes_of_each<C>(greatest_of_row, cpu::MAKEMORE_EXT_CAPABILITY::max<C>);
  }

  // exp(x - shifts(i)) for the elements of all rows.
  template <typename Element, typename Shifts>
  MAKEMORE_EXT_INLINE void exponentials(const Element* x, C* terms, const Shifts& shifts) const {
    for (int64_t i = 0; i < kRows * classes_; i += kLanes<T>) {
      store(terms + i, exp_nonpositive<C>(load(x + i) - shifts(i)));
    }
  }

  // `whole`: of which full vectors of doubles a row has no more, or just as many if that is 0.
  template <int whole>
  void sum_rows(const C* terms, double* sums) const {
    constexpr int64_t lanes = kLanes<double>;
    const int64_t whole_vectors = classes_ / lanes;
    if constexpr (whole > 0) {
      if (whole_vectors != whole) {
        return sum_rows<whole - 1>(terms, sums);
      }
    }
    const Vec<int64_t> is_term = lane_numbers<double>() < classes_ % lanes;
    for (int64_t first = 0; first < kRows; first += lanes) {
      const auto sum_of_row = [&](int row) {
        const C* of_row = terms + (first + row) * classes_;
        const int64_t vectors = whole == 0 ? whole_vectors : whole;
        Vec<double> sum = is_term ? load_doubles(of_row + vectors * lanes) : Vec<double>{};
        for (int64_t v = 0; v < vectors; ++v) {
          sum += load_doubles(of_row + v * lanes);
        }
        return sum;
      };
      store(sums + first, across_lanes_of_each<double>(
                              sum_of_row, [](Vec<double> a, Vec<double> b) { return a + b; }));
    }
  }

  int64_t classes_;
};

}  // namespace makemore_ext::cpu::MAKEMORE_EXT_CAPABILITY
