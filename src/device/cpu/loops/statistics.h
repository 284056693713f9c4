#pragma once

// The sums of base/statistics.h: 32 lanes of f64 in a fixed tree, so that every instruction set and every device gives
// the same bits. Squares of f32 and narrower are exact in f64; those of f64 are rounded before they are added.
//
// A row without NaN and infinity takes the vector way; one that has some is rare and goes element by element.

#include "device/cpu/loops.h"
#include "device/cpu/loops/elementwise.h"

namespace layerprobe::device::cpu {
namespace {

constexpr std::int64_t kStatisticsLanes = 32;

inline double sum_of_tree(double* lanes) {
  for (std::int64_t half = kStatisticsLanes / 2; half > 0; half /= 2) {
    for (std::int64_t lane = 0; lane < half; ++lane) lanes[lane] += lanes[lane + half];
  }
  return lanes[0];
}

inline bool is_finite(double value) { return value - value == 0; }

template <typename Element>
RowSums statistics_of_any_row(const Element* x, std::int64_t columns) {
  double sums[kStatisticsLanes] = {};
  double squares[kStatisticsLanes] = {};
  RowSums row{.sum = 0,
              .sum_of_squares = 0,
              .min = __builtin_inf(),
              .max = -__builtin_inf(),
              .abs_max = -1,
              .abs_max_column = -1,
              .nan_count = 0,
              .inf_count = 0};
  for (std::int64_t column = 0; column < columns; ++column) {
    const double value = value_of(x[column]);
    if (!is_finite(value)) {
      ++(value != value ? row.nan_count : row.inf_count);
      continue;
    }
    sums[column % kStatisticsLanes] += value;
    squares[column % kStatisticsLanes] += value * value;
    if (value < row.min) row.min = value;
    if (value > row.max) row.max = value;
    const double magnitude = __builtin_fabs(value);
    if (magnitude > row.abs_max) {
      row.abs_max = magnitude;
      row.abs_max_column = column;
    }
  }
  row.sum = sum_of_tree(sums);
  row.sum_of_squares = sum_of_tree(squares);
  return row;
}

/// Half of a vector of f32 as f64, or a vector of f64 as it is.
template <int part>
inline F64 part_as_f64(F32 value) {
  using HalfF32 = float __attribute__((vector_size(kVectorBytes / 2)));
  HalfF32 half;
  __builtin_memcpy(&half, reinterpret_cast<const char*>(&value) + part * sizeof half, sizeof half);
  return __builtin_convertvector(half, F64);
}
template <int>
inline F64 part_as_f64(F64 value) {
  return value;
}

/// The first column of magnitude `abs_max`, which the row has. Each lane looks for its own first, without a branch.
template <typename Element>
std::int64_t first_column_of(const Element* x, std::int64_t columns, Scalar<Element> abs_max) {
  using Index = Lanes<Element>;
  const Index none = ~Index{} ^ (Index{} + 1) << (8 * sizeof(Index{}[0]) - 1);  // the largest
  Index first = none;
  Index here = lane_numbers<Element>();
  for_each_vector<Element>(columns, [&](std::int64_t column, auto access) {
    const Vector<Element> value = access.load(x + column);
    const Index found = ((value == abs_max) | (value == -abs_max)) ? here : none;
    first = found < first ? found : first;
    here += static_cast<std::int32_t>(kLanes<Element>);
  });
  return -max_of_lanes(-first);
}

template <typename Element>
RowSums statistics_of_row(const Element* x, std::int64_t columns) {
  using V = Vector<Element>;
  constexpr std::int64_t kVectors = kStatisticsLanes / kLanes<Element>;  // of elements
  constexpr std::int64_t kParts = kStatisticsLanes / kLanes<double>;     // of f64
  constexpr std::int64_t kPartsOfVector = kParts / kVectors;
  if (columns < kStatisticsLanes) return statistics_of_any_row(x, columns);

  F64 sums[kParts] = {};
  F64 squares[kParts] = {};
  V min = load(x), max = min;
  V not_finite = {};  // x - x: 0, or NaN where x is NaN or infinite
  const auto take = [&](std::int64_t vector, V value) __attribute__((always_inline)) {
    const auto take_part = [&](std::int64_t part, F64 wide) __attribute__((always_inline)) {
      sums[part] += wide;
      squares[part] += wide * wide;
    };
    take_part(vector * kPartsOfVector, part_as_f64<0>(value));
    if constexpr (kPartsOfVector == 2) take_part(vector * kPartsOfVector + 1, part_as_f64<1>(value));
  };
  const auto compare = [&](V value) __attribute__((always_inline)) {
    min = value < min ? value : min;
    max = value > max ? value : max;
    not_finite += value - value;
  };
  std::int64_t column = 0;
  for (; column + kStatisticsLanes <= columns; column += kStatisticsLanes) {
#pragma GCC unroll 16
    for (std::int64_t vector = 0; vector < kVectors; ++vector) {
      const V value = load(x + column + vector * kLanes<Element>);
      take(vector, value);
      compare(value);
    }
  }
#pragma GCC unroll 16
  for (std::int64_t vector = 0; vector < kVectors; ++vector) {
    const std::int64_t first = column + vector * kLanes<Element>;
    if (first >= columns) break;
    const std::int64_t count = columns - first < kLanes<Element> ? columns - first : kLanes<Element>;
    take(vector, load_first(x + first, count));                                         // adding 0 changes no sum
    compare(load(x + (count == kLanes<Element> ? first : columns - kLanes<Element>)));  // some may come twice
  }
  if (sum_of_lanes(not_finite) != 0) return statistics_of_any_row(x, columns);

  RowSums row{};
  double lanes[kStatisticsLanes];
  __builtin_memcpy(lanes, sums, sizeof lanes);
  row.sum = sum_of_tree(lanes);
  __builtin_memcpy(lanes, squares, sizeof lanes);
  row.sum_of_squares = sum_of_tree(lanes);
  row.min = -static_cast<double>(max_of_lanes(-min)) + 0.0;  // + 0.0: no negative zero, whichever came first
  row.max = max_of_lanes(max) + 0.0;
  row.abs_max = -row.min > row.max ? -row.min : row.max;
  row.abs_max_column = first_column_of(x, columns, static_cast<Scalar<Element>>(row.abs_max));
  return row;
}

RowSums row_statistics(const Tensor& x, std::int64_t row) {
  RowSums sums{};
  dispatch(x.dtype, [&]<typename Element>() { sums = statistics_of_row(row_of<const Element>(x, row), x.columns); });
  return sums;
}

}  // namespace
}  // namespace layerprobe::device::cpu
