#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct Embedding {
  Matrix out;                     // [num_tokens, hidden_size]
  Matrix weight;                  // [vocab_size, hidden_size]
  const std::int32_t* input_ids;  // [num_tokens], on the device, each below vocab_size
  std::int64_t num_tokens;
  std::int64_t hidden_size;
  Dtype dtype;  // of both
};

/// Queues the copies of rows on `stream`. Throws Error(device) if the launch is refused.
void embedding(const Embedding& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
