#pragma once

#include <cstdint>
#include <span>

#include "base/dtype.h"

namespace layerprobe::compare {

/// Sums over the elements of one row, r of the reference and c of the candidate, all in f64. One NaN or infinity on a
/// side makes that side's squares non-finite: who sees that counts them apart.
struct RowSums {
  double difference_squares = 0;    // (c - r)^2
  double reference_squares = 0;     // r^2
  double candidate_squares = 0;     // c^2
  double products = 0;              // r * c
  double absolute_differences = 0;  // |c - r|
  double max_abs_difference = 0;    // |c - r|; NaN left out
  double max_abs_reference = 0;     // |r|; NaN left out
};

/// How many units in the last place of their dtype two elements lie apart: 0, 1, 2, up to 4, 8, 16, 64, and more. A NaN
/// counts as its bits do.
inline constexpr int kUlpBuckets = 8;
inline constexpr std::uint32_t kUlpLimits[kUlpBuckets - 1] = {0, 1, 2, 4, 8, 16, 64};

/// The loops over a row, compiled for one instruction set. Element i goes to lane i % 8, a lane adds in order, the
/// lanes are added in one fixed tree, nothing is contracted: every instruction set gives the same bits.
struct RowKernels {
  const char* name;  // "avx512"

  /// Both rows are `width` elements of `dtype`, at any alignment.
  RowSums (*difference)(Dtype dtype, const void* reference, const void* candidate, std::int64_t width);
  /// The same sums where both rows are this one.
  RowSums (*same)(Dtype dtype, const void* row, std::int64_t width);

  /// Adds to counts[kUlpBuckets] the elements of two rows of one floating dtype.
  void (*ulps)(Dtype dtype, const void* reference, const void* candidate, std::int64_t width, std::int64_t* counts);

  /// out[i] = row[i], exactly.
  void (*widen)(Dtype dtype, const void* row, std::int64_t width, double* out);
  /// out[i] = row[i] rounded to `dtype`: f32, then f16 or bf16 from that as torch does; to nearest, ties to even.
  void (*narrow)(Dtype dtype, const double* row, std::int64_t width, void* out);
};

/// Those this processor can run, the best last.
std::span<const RowKernels> row_kernels();

}  // namespace layerprobe::compare
