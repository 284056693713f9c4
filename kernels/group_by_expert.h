#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct GroupByExpert {
  Matrix row_of_choice;              // [num_tokens, num_choices], i32
  Matrix token_of_row;               // [num_tokens * num_choices, 1], i32
  Matrix topk_indices;               // [num_tokens, num_choices], i32
  std::int32_t* first_rows;          // [num_experts + 1]
  std::int32_t* first_rows_on_host;  // the same, in pinned memory
  std::int32_t* tile_counts;         // room for num_tiles * num_experts
  std::int64_t num_tokens;
  std::int64_t num_choices;
  std::int64_t num_experts;  // at most kMostExperts (route_tokens.h)

  /// Choices are taken in tiles, one after the other.
  static constexpr std::int64_t kTile = 512;
  std::int64_t num_tiles() const { return (num_tokens * num_choices + kTile - 1) / kTile; }
};

/// Queues the dealing of rows to choices on `stream`. Formula: device/ops.h. Throws Error(device) if a launch is
/// refused.
void group_by_expert(const GroupByExpert& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
