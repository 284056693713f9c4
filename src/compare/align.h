#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compare/compare.h"
#include "store/reader.h"

namespace layerprobe::compare {

/// Rows that stand one after the other in both files and hold the same tokens.
struct RowRun {
  std::int64_t reference_row = 0;
  std::int64_t candidate_row = 0;
  std::int64_t count = 0;
};

/// The name under which points of both files meet: "model.language_model.x" is "model.x".
std::string canonical_name(std::string_view name);

/// What two files have in common.
class Alignment {
 public:
  /// Throws Error(input), naming prompt and position, when a prompt's token ids differ, and when no row is in both.
  Alignment(const store::Reader& reference, const store::Reader& candidate);

  std::int64_t num_prompts() const { return static_cast<std::int64_t>(first_run_.size()) - 1; }
  std::int64_t num_rows() const { return num_rows_; }

  struct Shared {
    std::vector<RowRun> runs;  // joined as far as they go on in both files
    std::int64_t num_prompts = 0;
    std::int64_t num_incomplete_prompts = 0;
    std::int64_t num_rows = 0;
  };
  /// The rows of a point that are complete in both files; the point's index in each.
  Shared rows_of(std::size_t reference_point, std::size_t candidate_point) const;

 private:
  const store::Reader& reference_;
  const store::Reader& candidate_;
  std::vector<RowRun> runs_;
  std::vector<std::size_t> first_run_;  // [num_prompts + 1]: prompt p has runs_[first_run_[p]] ..
  std::int64_t num_rows_ = 0;
};

}  // namespace layerprobe::compare
