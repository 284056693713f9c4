#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "kernels/matrix.h"

namespace layerprobe::kernels {

/// Of one row: what base/statistics.h says of its fields.
struct RowSums {
  double sum;
  double sum_of_squares;
  double min;
  double max;
  double abs_max;
  std::int64_t abs_max_column;
  std::int64_t nan_count;
  std::int64_t inf_count;
};

struct RowStatistics {
  RowSums* out;  // [num_rows], on the device
  Matrix x;      // [num_rows, columns]
  std::int64_t num_rows;
  std::int64_t columns;
  Dtype dtype;
};

/// Queues the statistics of each row on `stream`, the sums in the tree of base/statistics.h. Throws Error(device) if
/// the launch is refused.
void row_statistics(const RowStatistics& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
