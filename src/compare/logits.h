#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "base/dtype.h"
#include "compare/difference.h"
#include "compare/heatmap.h"
#include "compare/row_kernel.h"

namespace layerprobe::compare {

/// What is known of some rows of logits, one after the other. Row numbers are the reference's; -1: none.
struct LogitsPartial {
  std::int64_t num_rows = 0, num_left_out = 0;
  std::int64_t num_same_top1 = 0;
  double kl_sum = 0, kl_max = 0;
  std::int64_t kl_max_row = -1;
  double overlap_sum = 0;
  double gap_max = 0;
  std::int64_t gap_max_row = -1;

  /// Adds rows that follow. Of equals the first stays.
  void append(const LogitsPartial& next);
};

/// Holds rows of logits against each other, one at a time, as distributions over the next token. One thread.
class LogitsComparer {
 public:
  LogitsComparer(Dtype reference_dtype, Dtype candidate_dtype, std::int64_t width);

  /// Adds one row: `row` is its number in the reference; both are `width` elements of their side's dtype.
  void add(const std::byte* reference, const std::byte* candidate, std::int64_t row, LogitsPartial& partial);

  /// The sizes of the rows' KL divergences, and of the reference's gaps where the most likely tokens differ.
  const TokenErrors& kl() const { return kl_; }
  const TokenErrors& gaps() const { return gaps_; }

 private:
  const RowKernels& kernels_;
  Dtype reference_dtype_, candidate_dtype_;
  std::int64_t width_;
  std::vector<double> reference_values_, candidate_values_;  // of one row
  TokenErrors kl_, gaps_;
};

}  // namespace layerprobe::compare
