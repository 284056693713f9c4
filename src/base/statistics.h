#pragma once

#include <cmath>
#include <cstdint>
#include <limits>

namespace layerprobe {

/// Of one row of a value, or of many rows put together in order. All sums are f64.
///
/// A row's sums are taken in one fixed tree, the same on every device: lane l of 32 adds the elements l, l + 32,
/// l + 64, ... one after the other; then lane l takes lane l + 16, l + 8, l + 4, l + 2, l + 1. Rows are added in order.
/// NaN and infinite elements are counted and left out of everything else.
struct RowSums {  // of one row
  double sum, sum_of_squares, min, max, abs_max;
  std::int64_t abs_max_column, nan_count, inf_count;
};

struct Statistics {
  std::int64_t count = 0;  // of all elements, NaN and infinite ones too
  double sum = 0;
  double sum_of_squares = 0;
  double min = std::numeric_limits<double>::infinity();
  double max = -std::numeric_limits<double>::infinity();
  double abs_max = -1;            // -1: no finite element
  std::int64_t abs_max_row = -1;  // the first row and, in it, the first column that has it
  std::int64_t abs_max_column = -1;
  std::int64_t nan_count = 0;
  std::int64_t inf_count = 0;
  std::int64_t first_non_finite_row = -1;

  std::int64_t finite_count() const { return count - nan_count - inf_count; }
  double mean() const { return sum / static_cast<double>(finite_count()); }
  /// The square root of the mean square distance to the mean, dividing by n.
  double std() const {
    const double n = static_cast<double>(finite_count());
    const double variance = sum_of_squares / n - mean() * mean();
    return std::sqrt(variance > 0 ? variance : 0.0);
  }

  /// Adds the row that follows, of `columns` elements.
  void append(const RowSums& row, std::int64_t columns) {
    append({.count = columns,
            .sum = row.sum,
            .sum_of_squares = row.sum_of_squares,
            .min = row.min,
            .max = row.max,
            .abs_max = row.abs_max,
            .abs_max_row = row.abs_max_column < 0 ? -1 : 0,
            .abs_max_column = row.abs_max_column,
            .nan_count = row.nan_count,
            .inf_count = row.inf_count,
            .first_non_finite_row = row.nan_count + row.inf_count > 0 ? 0 : -1},
           count / columns);
  }

  /// Adds the statistics of the rows that follow. `other`'s rows are counted from `first_row`.
  void append(const Statistics& other, std::int64_t first_row) {
    count += other.count;
    sum += other.sum;
    sum_of_squares += other.sum_of_squares;
    if (other.min < min) min = other.min;
    if (other.max > max) max = other.max;
    if (other.abs_max > abs_max) {
      abs_max = other.abs_max;
      abs_max_row = first_row + other.abs_max_row;
      abs_max_column = other.abs_max_column;
    }
    nan_count += other.nan_count;
    inf_count += other.inf_count;
    if (first_non_finite_row < 0 && other.first_non_finite_row >= 0) {
      first_non_finite_row = first_row + other.first_non_finite_row;
    }
  }
};

}  // namespace layerprobe
