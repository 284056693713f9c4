#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct Rope {
  Matrix x;    // [num_tokens, num_heads * head_dim], rotated in place
  Matrix cos;  // [num_tokens, half]
  Matrix sin;  // [num_tokens, half]
  std::int64_t num_tokens;
  std::int64_t num_heads;
  std::int64_t head_dim;
  std::int64_t half;   // rotary_dim / 2
  std::int64_t first;  // of a head's rotated columns
  bool interleaved;    // a pair is two neighbours
  Dtype dtype;         // of all three
};

/// Queues the rotation on `stream`. Formula and rounding: device/ops.h. Throws Error(device) if the launch is refused.
void rope(const Rope& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
