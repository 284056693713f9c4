#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/file.h"
#include "weights/tensor_info.h"

namespace layerprobe::weights {

/// An F8_E4M3 matrix and the factors of its blocks [block_rows, block_columns], of which the last ones are partial.
struct ScaledTensor {
  const File& file;
  const TensorInfo& tensor;  // [rows, columns]
  const File& scales_file;
  const TensorInfo& scales;  // [ceil(rows / block_rows), ceil(columns / block_columns)]
  std::int64_t block_rows;
  std::int64_t block_columns;
};

/// All values to `out` [rows * columns] in `dtype`: rounded(f32 of the stored number * f32 of its block's factor), to
/// nearest, ties to even; in f64 to f64. Throws Error(input) when a file is shorter than it was, and for factors that
/// are not numbers.
void read_scaled_values(const ScaledTensor& values, Dtype dtype, std::byte* out);

/// 1 sign, 4 exponent (bias 7), 3 mantissa bits, no infinity; 0x7f and 0xff are NaN.
float f32_of_e4m3(std::uint8_t bits);

}  // namespace layerprobe::weights
