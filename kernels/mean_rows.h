#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct MeanRows {
  Matrix out;                      // [num_prompts, columns], f32
  Matrix x;                        // [num_tokens, columns]
  const std::int64_t* cu_seqlens;  // [num_prompts + 1], on the device
  std::int64_t num_prompts;
  std::int64_t columns;
  Dtype dtype;  // of x
};

/// Queues the mean of each prompt's rows on `stream`. Formula: device/ops.h. Throws Error(device) if the launch is
/// refused.
void mean_rows(const MeanRows& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
