#pragma once

#include <cuda_runtime_api.h>

#include <cstdint>

#include "base/dtype.h"
#include "base/storage.h"

namespace layerprobe::kernels {

/// Consecutive values of a matrix [rows, columns] on their way from a file's bytes to their places.
struct ConvertValues {
  void* out;                // the matrix: element (r, c) is at out + (r * row_stride + c) elements
  const void* stored;       // whole blocks, at a multiple of 8 bytes
  std::int64_t row;         // of the first value, in the order of the file
  std::int64_t column;      // the same
  std::int64_t num_values;  // below 2^30
  std::int64_t columns;     // below 2^31
  std::int64_t row_stride;
  std::int64_t
      head_dim;  // not 0: rows 2j and 2j + 1 of each head_dim rows of the file belong to j and j + head_dim / 2
  Storage storage;
  Dtype dtype;  // of the matrix
};

/// Queues the conversion on `stream`: the bits of weights/convert.h and weights/dequantize.h, but that a NaN that has
/// to be computed may be another NaN. Throws Error(device) if the launch is refused.
void convert_values(const ConvertValues& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
