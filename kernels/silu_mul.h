#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct SiluMul {
  Matrix out;  // [num_tokens, intermediate_size]; may be gate or up
  Matrix gate;
  Matrix up;  // without data: silu alone
  std::int64_t num_tokens;
  std::int64_t intermediate_size;
  Dtype dtype;  // of all three
};

/// Queues the gated activation on `stream`. Formula and rounding: device/ops.h. Throws Error(device) if the launch is
/// refused.
void silu_mul(const SiluMul& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
