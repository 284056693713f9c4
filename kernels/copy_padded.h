#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct CopyPadded {
  Matrix out;   // [num_rows, num_groups * out_columns]
  Matrix from;  // [num_rows, num_groups * from_columns]
  std::int64_t num_rows;
  std::int64_t num_groups;
  std::int64_t out_columns;
  std::int64_t from_columns;
  Dtype dtype;  // of both
};

/// Queues the copy of each group's first columns, as many as both have, on `stream`; what else out has becomes 0.
/// Throws Error(device) if the launch is refused.
void copy_padded(const CopyPadded& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
