#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct Expand {
  Matrix out;  // [num_rows, columns], f32
  Matrix x;    // [num_rows, columns], f16 or bf16
  std::int64_t num_rows;
  std::int64_t columns;
  Dtype dtype;  // of x
};

/// Queues out = x on `stream`. Throws Error(device) if the launch is refused.
void expand(const Expand& args, cudaStream_t stream);

/// F8_E4M3 matrices of one shape, as many as `count`, at even distances, on their way to the dtype that products take.
struct ExpandFp8 {
  void* out;                   // [rows, columns] each, rows out_stride elements apart
  const std::uint8_t* stored;  // [rows, columns] each, packed
  const float* factors;        // [ceil(rows / block_rows), factor_columns] each, some perhaps unused
  std::int64_t rows;
  std::int64_t columns;
  std::int64_t out_stride;
  std::int64_t factor_columns;
  std::int64_t block_rows;
  std::int64_t block_columns;
  std::int64_t count;
  std::int64_t out_distance;     // between two matrices, in elements
  std::int64_t stored_distance;  // the same
  std::int64_t factor_distance;  // the same
  Dtype dtype;                   // of out
};

/// Queues out[r, c] = rounded(f32 of stored[r, c] * its block's factor) (in f64 to f64) on `stream`: the bits of
/// weights/read_scaled.h. Throws Error(device) if the launch is refused.
void expand_fp8(const ExpandFp8& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
