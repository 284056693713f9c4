#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct QuantizeRows {
  static constexpr std::int64_t kBlock = 128;  // columns that share a factor

  std::uint8_t* out;  // [padded_rows, columns] F8_E4M3, packed
  float* factors;     // [ceil(columns / kBlock), padded_rows]: as cuBLASLt has them, a block's rows side by side
  Matrix x;           // [num_rows, columns]
  std::int64_t num_rows;
  std::int64_t padded_rows;  // zeros from num_rows on, and factors of zero
  std::int64_t columns;      // a multiple of 4
  Dtype dtype;               // of x: f16 or bf16
};

/// Queues factor = max |x| / 448 of each row's block, in f32, and out = x / factor rounded to F8_E4M3, to nearest, ties
/// to even; zeros where a block is zero. Source: transformers' integrations/finegrained_fp8.py, act_quant. Throws
/// Error(device) if the launch is refused.
void quantize_rows(const QuantizeRows& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
