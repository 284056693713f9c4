#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct Add {
  Matrix out;  // [num_rows, columns]; may be a or b
  Matrix a;
  Matrix b;  // with a row_stride of 0 one row is added to all
  std::int64_t num_rows;
  std::int64_t columns;
  Dtype dtype;  // of all three
};

/// Queues the sum on `stream`. Formula and rounding: device/ops.h. Throws Error(device) if the launch is refused.
void add(const Add& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
