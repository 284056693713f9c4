#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace layerprobe {

/// The input of a run. Prompts lie end to end: prompt p is input_ids[cu_seqlens[p] .. cu_seqlens[p + 1]).
struct Prompts {
  std::vector<std::int32_t> input_ids;   // [num_tokens]
  std::vector<std::int64_t> cu_seqlens;  // [num_prompts + 1], begins with 0
  std::vector<std::string> texts;        // [num_prompts], or empty where the input was no text

  std::int64_t num_prompts() const { return static_cast<std::int64_t>(cu_seqlens.size()) - 1; }
  std::int64_t num_tokens() const { return cu_seqlens.empty() ? 0 : cu_seqlens.back(); }
  std::int64_t length(std::int64_t prompt) const {
    return cu_seqlens[static_cast<std::size_t>(prompt) + 1] - cu_seqlens[static_cast<std::size_t>(prompt)];
  }
};

/// Which tokens of each prompt are captured: row r of every capture belongs to prompt p where
/// cu_rows[p] <= r < cu_rows[p + 1] and is that prompt's token position[r]; -1 is the mean over the prompt's tokens.
struct CapturedRows {
  std::vector<std::int64_t> cu_rows;   // [num_prompts + 1], begins with 0
  std::vector<std::int32_t> position;  // [num_rows]

  std::int64_t num_rows() const { return cu_rows.empty() ? 0 : cu_rows.back(); }
};

}  // namespace layerprobe
