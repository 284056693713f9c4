#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct ExpandKeyValues {
  Matrix key_states;    // [num_tokens, num_heads * (plain_columns + rotated_columns)]
  Matrix value_states;  // [num_tokens, num_heads * value_columns]
  Matrix kv;            // [num_tokens, num_heads * (plain_columns + value_columns)]
  Matrix k_rot;         // [num_tokens, rotated_columns]
  std::int64_t num_tokens;
  std::int64_t num_heads;
  std::int64_t plain_columns;    // qk_nope_head_dim
  std::int64_t rotated_columns;  // qk_rope_head_dim
  std::int64_t value_columns;    // v_head_dim
  Dtype dtype;                   // of all four
};

/// Queues the copies of device/ops.h's expand_key_values on `stream`. Throws Error(device) if the launch is refused.
void expand_key_values(const ExpandKeyValues& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
