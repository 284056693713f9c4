#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct RmsNorm {
  Matrix out;            // [num_tokens, num_groups * group_size]; may be hidden_states
  Matrix hidden_states;  // [num_tokens, num_groups * group_size]
  const void* weight;    // [group_size]
  std::int64_t num_tokens;
  std::int64_t num_groups;
  std::int64_t group_size;
  double rms_norm_eps;
  Dtype dtype;  // of all three
  /// With data: `sum` becomes hidden_states + added, rounded, and is what is normed. All of hidden_states' shape.
  Matrix added = {};
  Matrix sum = {};
};

/// Queues the root-mean-square norm of each group on `stream`. Formula and rounding: device/ops.h. Throws Error(device)
/// if the launch is refused.
void rms_norm(const RmsNorm& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
