#pragma once

#include <cuda_runtime_api.h>

#include "base/dtype.h"
#include "base/statistics.h"
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

struct AppendStatistics {
  Statistics* out;              // [num_prompts], on the device as all of these
  RowSums* row_sums;            // [num_rows], room to work in
  Matrix x;                     // [num_rows, columns]
  const std::int64_t* cu_rows;  // [num_prompts + 1]
  std::int64_t num_prompts;
  std::int64_t num_rows;
  std::int64_t columns;
  Dtype dtype;  // of x
};

/// Queues the statistics of each prompt's rows on `stream`. Formula: device/ops.h. Throws Error(device) if the launch
/// is refused.
void append_statistics(const AppendStatistics& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
