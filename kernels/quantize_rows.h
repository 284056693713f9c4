#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct QuantizeRows {
  static constexpr std::int64_t kBlock = 128;  // columns that share a factor
  /// Rows that are multiplied together: those from first_row on, up to the next part's. They are put from
  /// first_padded_row on.
  struct Part {
    std::int64_t first_row, first_padded_row;
  };

  std::uint8_t* out;         // [padded rows, columns] F8_E4M3, packed
  float* factors;            // of each part, one after the other: [ceil(columns / kBlock), its padded rows]
  Matrix x;                  // [any, columns], aligned (are_aligned)
  Matrix up;                 // likewise; with data, silu_mul of x and this one, rounded, is what is taken
  const std::int32_t* rows;  // [num_rows], on the device: row r is x's (and up's) rows[r]; nullptr: their row r
  const Part* parts;         // [num_parts + 1], on the device; the last one ends the rows
  std::int64_t num_parts;
  std::int64_t padded_rows;  // of all parts. Behind the rows of each: zeros, and factors of zero
  std::int64_t columns;
  Dtype dtype;  // of x and up: f16 or bf16
};

/// Queues factor = max |x| / 448 of each row's block, in f32, and out = x / factor rounded to F8_E4M3, to nearest, ties
/// to even; zeros where a block is zero. Source: transformers' integrations/finegrained_fp8.py, act_quant. Throws
/// Error(device) if the launch is refused.
void quantize_rows(const QuantizeRows& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
