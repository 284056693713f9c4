#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "compare/difference.h"
#include "compare/row_kernel.h"

namespace layerprobe::compare {

/// bf16, then f16, f32, f64: what both sides are rounded to before they are judged. Of integers: integers.
Dtype narrower(Dtype a, Dtype b);

/// ||difference|| / ||reference|| of their squares; nothing off nothing is no error.
double rel_l2_of(double difference_squares, double reference_squares);

/// What is known of some rows of a point, one after the other. Row numbers are the reference's.
struct Partial {
  double difference_squares = 0, reference_squares = 0, candidate_squares = 0, products = 0;
  double raw_difference_squares = 0, raw_reference_squares = 0;
  double absolute_differences = 0;
  double plain_difference_squares = 0, plain_reference_squares = 0;  // without what is massive
  std::int64_t num_sink_rows = 0;
  double max_abs_reference = 0;
  double max_abs = 0;
  std::int64_t max_abs_row = -1;
  Element max_abs_at;  // its token is left open here
  double worst_rel_l2 = 0;
  std::int64_t worst_row = -1;
  NonFinite reference_non_finite, candidate_non_finite;
  std::int64_t unmatched_non_finite = 0;
  std::int64_t first_unmatched_row = -1;
  Element first_unmatched;  // its token is left open here
  bool bit_equal = true;

  /// Adds rows that follow. Of equals the first stays.
  void append(const Partial& next);
};

/// What of a point's reference is hundreds of times larger than the rest.
struct Massive {
  std::vector<std::int64_t> channels;  // rising
  /// A row whose reference has more than this as its sum of squares is an attention sink's.
  double sink_squares = std::numeric_limits<double>::infinity();
};

/// What one row has come to.
struct RowError {
  double rel_l2 = 0;
  double difference_squares = 0, reference_squares = 0;
  bool is_unmatched = false;  // NaN or infinite on one side
};

/// Compares rows of one point, one at a time. One thread.
class RowComparer {
 public:
  RowComparer(Dtype reference_dtype, Dtype candidate_dtype, std::int64_t width, const Massive& massive);

  /// Adds one row: `row` is its number in the reference; both are `width` elements of their side's dtype. A token that
  /// went to other experts is left out of what is without the massive.
  RowError add(const std::byte* reference, const std::byte* candidate, std::int64_t row, bool is_rerouted,
               Partial& partial);

  /// Of all rows added, where the dtypes are one.
  const std::array<std::int64_t, kUlpBuckets>& ulps() const { return ulps_; }

 private:
  RowSums judge(const std::byte* reference, const std::byte* candidate, bool are_equal, std::int64_t row,
                bool is_rerouted, Partial& partial);
  void widen(Dtype reference_dtype, const std::byte* reference, Dtype candidate_dtype, const std::byte* candidate);
  RowSums difference_of_values() const;
  void blank_non_finite();
  void count_non_finite(std::int64_t row, Partial& partial) const;
  Element element_with_difference(double max_abs) const;

  void add_plain(const RowSums& sums, const std::byte* reference, const std::byte* candidate, bool is_widened,
                 Partial& partial);

  const RowKernels& kernels_;
  const Massive& massive_;
  std::array<std::int64_t, kUlpBuckets> ulps_{};
  Dtype reference_dtype_, candidate_dtype_, judged_dtype_;
  std::int64_t width_;
  std::vector<double> reference_values_, candidate_values_;  // of one row
  std::vector<std::pair<double, double>> kept_;              // of the massive channels of one row
  std::vector<std::byte> rounded_;                           // one row of the wider side in the judged dtype
};

}  // namespace layerprobe::compare
