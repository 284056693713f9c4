#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "base/statistics.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

struct RowStatistics {
  RowSums* out;  // [num_rows]
  Matrix x;      // [num_rows, columns]
  std::int64_t num_rows;
  std::int64_t columns;
  Dtype dtype;  // of x
};

/// Queues the sums of each row on `stream`, in the tree of base/statistics.h. Throws Error(device) if the launch is
/// refused.
void row_sums(const RowStatistics& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
