#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

constexpr std::int64_t kMostExperts = 1024;  // that route_tokens and group_by_expert take

struct RouteTokens {
  Matrix topk_indices;         // [num_tokens, num_choices], i32
  Matrix topk_weights;         // [num_tokens, num_choices], f32; f64 where router_logits are
  Matrix router_logits;        // [num_tokens, num_experts]
  const void* selection_bias;  // [num_experts], of topk_weights' dtype; or nullptr
  std::int64_t num_tokens;
  std::int64_t num_experts;  // at most kMostExperts
  std::int64_t num_choices;
  bool is_sigmoid;  // else softmax
  bool normalizes;
  bool rounds_weights;
  std::int64_t num_groups;   // 1: none
  std::int64_t topk_groups;  // of them experts are chosen
  double divisor_epsilon;
  double scaling_factor;
  Dtype dtype;  // of router_logits
};

/// Queues the choice of each token's experts on `stream`. Formula and rounding: device/ops.h.
/// Throws Error(device) if the launch is refused.
void route_tokens(const RouteTokens& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
