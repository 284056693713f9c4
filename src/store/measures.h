#pragma once

#include <array>
#include <bit>
#include <cstdint>

#include "base/statistics.h"

namespace layerprobe::store {

/// A member of Statistics as a dataset of /statistics: 8 bytes, one of the two.
struct Measure {
  const char* name;
  std::int64_t Statistics::*integer;
  double Statistics::*real;

  std::uint64_t bits_of(const Statistics& statistics) const {
    return integer != nullptr ? static_cast<std::uint64_t>(statistics.*integer)
                              : std::bit_cast<std::uint64_t>(statistics.*real);
  }
  void set(Statistics& statistics, std::uint64_t bits) const {
    if (integer != nullptr) {
      statistics.*integer = static_cast<std::int64_t>(bits);
    } else {
      statistics.*real = std::bit_cast<double>(bits);
    }
  }
};

inline constexpr std::array<Measure, 11> kMeasures = {{
    {"count", &Statistics::count, nullptr},
    {"sum", nullptr, &Statistics::sum},
    {"sum_of_squares", nullptr, &Statistics::sum_of_squares},
    {"min", nullptr, &Statistics::min},
    {"max", nullptr, &Statistics::max},
    {"abs_max", nullptr, &Statistics::abs_max},
    {"abs_max_row", &Statistics::abs_max_row, nullptr},
    {"abs_max_column", &Statistics::abs_max_column, nullptr},
    {"nan_count", &Statistics::nan_count, nullptr},
    {"inf_count", &Statistics::inf_count, nullptr},
    {"first_non_finite_row", &Statistics::first_non_finite_row, nullptr},
}};

}  // namespace layerprobe::store
