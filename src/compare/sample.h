#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "compare/align.h"
#include "compare/row_comparer.h"
#include "store/reader.h"

namespace layerprobe::compare {

/// Some rows of a point in both files, as f64: the first ones of prompts that are spread over the file, whole pieces of
/// neighbouring tokens. The same rows whatever the number of threads.
struct Sample {
  std::int64_t width = 0;
  std::vector<double> reference, candidate;  // [num_rows(), width]
  std::vector<std::int64_t> reference_row;   // where each is in the reference
  std::vector<std::int32_t> position;        // its token's place in its prompt; -1: the mean
  std::vector<std::int64_t> piece_begin;     // indices of rows at which a piece begins, and num_rows() at the end

  std::int64_t num_rows() const { return static_cast<std::int64_t>(reference_row.size()); }
  const double* r(std::int64_t row) const { return reference.data() + row * width; }
  const double* c(std::int64_t row) const { return candidate.data() + row * width; }
};

/// The pieces of the shared rows that a sample takes: at most max_rows of them; where `with_row` (the reference's) is
/// given, a piece around it too.
std::vector<RowRun> sampled_rows(const store::Reader& reference, const std::vector<RowRun>& runs, std::int64_t max_rows,
                                 std::optional<std::int64_t> with_row = std::nullopt);

Sample read_sample(const store::Reader& reference, std::size_t reference_point, const store::Reader& candidate,
                   std::size_t candidate_point, const std::vector<RowRun>& rows);

/// Rows for a sample of so wide a point: 512, or fewer of a wide one.
std::int64_t sample_rows_for(std::int64_t width);

/// From the reference's side alone. A sink is a row over 8 times the median norm; a massive channel is one whose
/// largest magnitude in the other rows is over 30 times the median channel's, at most 16 of them.
Massive massive_of(const store::Reader& reference, std::size_t reference_point, const std::vector<RowRun>& rows);

}  // namespace layerprobe::compare
