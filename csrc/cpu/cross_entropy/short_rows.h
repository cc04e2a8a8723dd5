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

  // What `terms` has room for, beside the exponentials themselves.
  static int64_t padding(int64_t classes) { return kRows * classes + kLanes<T>; }

  explicit ShortRows(int64_t classes) : classes_(classes) {}

  // A row of the gradient that has no other part: scale exp(x_c - max), from the exponentials.
  void scale_row(const C* terms, C scale, T* dx) const {
    if (classes_ < kLanes<T>) {
      return store_partial(dx, load(terms) * scale, classes_);
    }
    for_each_vector<false>(terms, [&](int64_t c, Vec<C> term) { store(dx + c, term * scale); });
  }

  // max_c x_c of each of the rows to max, sum_c exp(x_c - max) to sum_exp, both [kRows], and the
  // exponentials themselves to terms, [count, classes]. Of `rows`, those from `count` on are read
  // like others, and their results are of no use.
  void reduce(const T* const (&rows)[kRows], int64_t count, C* terms, C* max,
              double* sum_exp) const {
    if (classes_ < kLanes<T>) {
      subtract_max<true>(rows, count, terms, max);
    } else {
      subtract_max<false>(rows, count, terms, max);
    }
    for (int64_t i = 0; i < count * classes_; i += kLanes<T>) {
      store(terms + i, exp_nonpositive<C>(load(terms + i)));
    }
    sum_rows(terms, count, sum_exp);
  }

 private:
  // Calls body(c, logits) for the vectors of a row. The last one starts early rather than ends
  // late, and so holds some elements again. `partial`: there is one, and it is not full.
  template <bool partial, typename Element, typename Body>
  MAKEMORE_EXT_INLINE void for_each_vector(const Element* x, const Body& body) const {
    if constexpr (!partial) {
      for (int64_t c = 0; c + kLanes<T> < classes_; c += kLanes<T>) {
        body(c, load(x + c));
      }
    }
    const int64_t last = partial ? 0 : classes_ - kLanes<T>;
    const C lowest = -std::numeric_limits<C>::infinity();
    body(last, load_lanes<partial>(x + last, classes_, lowest));
  }

  template <bool partial>
  void subtract_max(const T* const (&rows)[kRows], int64_t count, C* terms, C* max) const {
    const C lowest = -std::numeric_limits<C>::infinity();
    const auto greatest_of_row = [&](int row) {
      Vec<C> greatest = broadcast(lowest);
      for_each_vector<partial>(rows[row], [&](int64_t, Vec<C> logits) {
        greatest = cpu::MAKEMORE_EXT_CAPABILITY::max<C>(logits, greatest);
      });
      return greatest;
    };
    const Vec<C> greatest =
        across_lanes_of_each<C>(greatest_of_row, cpu::MAKEMORE_EXT_CAPABILITY::max<C>);
    store(max, greatest);
    C shift[kRows];
    store(shift, greatest == lowest ? Vec<C>{} : greatest);  // as in RowWorker::reduce_row
    // In order: what one row stores too much the next one stores over.
    for (int64_t row = 0; row < count; ++row) {
      for_each_vector<partial>(rows[row], [&](int64_t c, Vec<C> logits) {
        store(terms + row * classes_ + c, logits - shift[row]);
      });
    }
  }

  // `whole`: the full vectors of doubles of a row, or -1.
  template <int whole = 3>
  void sum_rows(const C* terms, int64_t count, double* sums) const {
    constexpr int64_t lanes = kLanes<double>;
    const int64_t whole_vectors = classes_ / lanes;
    if constexpr (whole > 0) {
      if (whole_vectors != whole) {
        return sum_rows<whole - 1>(terms, count, sums);
      }
    }
    const Vec<int64_t> is_term = lane_numbers<double>() < classes_ % lanes;
    for (int64_t first = 0; first < count; first += lanes) {
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
