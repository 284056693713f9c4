#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "compare/difference.h"
#include "store/reader.h"

namespace layerprobe::compare {

/// The name under which points of both files meet: "model.language_model.x" is "model.x".
std::string canonical_name(std::string_view name);

/// Which token of which prompt a row of a file is.
Token token_of(const CapturedRows& rows, std::int64_t row);

/// What two files have in common.
class Alignment {
 public:
  /// Prompts are paired by index where their tokens are the same; else by their tokens, where every prompt of the file
  /// with fewer is in the other. Throws Error(input), naming prompt and position, when neither holds, and when no row
  /// is in both.
  Alignment(const store::Reader& reference, const store::Reader& candidate);

  std::int64_t num_prompts() const { return num_prompts_; }  // in both
  /// How the candidate's prompts had to be put in order, in words; "" where they are the reference's.
  const std::string& prompt_order() const { return prompt_order_; }
  const std::vector<RowRun>& runs() const { return runs_; }
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
  void pair_prompts();

  const store::Reader& reference_;
  const store::Reader& candidate_;
  std::vector<RowRun> runs_;
  std::int64_t num_prompts_ = 0;
  std::string prompt_order_;
  std::vector<std::int64_t> candidate_prompt_;  // of each of the reference's; -1: the candidate has it not
  std::vector<std::size_t> first_run_;          // one more than those: prompt p has runs_[first_run_[p]] ..
  std::int64_t num_rows_ = 0;
};

}  // namespace layerprobe::compare
