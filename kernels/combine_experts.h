#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct CombineExperts {
  Matrix out;             // [num_tokens, hidden_size]
  Matrix expert_outputs;  // [num_tokens * num_choices, hidden_size]
  Matrix row_of_choice;   // [num_tokens, num_choices], i32
  Matrix topk_weights;    // [num_tokens, num_choices], f32; f64 where the others are
  std::int64_t num_tokens;
  std::int64_t num_choices;
  std::int64_t hidden_size;
  bool rounds_products;
  Dtype dtype;  // of out and expert_outputs
};

/// Queues the weighted sum of each token's experts on `stream`. Formula and rounding: device/ops.h.
/// Throws Error(device) if the launch is refused.
void combine_experts(const CombineExperts& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
