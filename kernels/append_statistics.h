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
  Statistics* out;    // [num_prompts]; on the device as all of these, or pinned on the host as cu_rows may be:
                      // each is read once and written once
  RowSums* row_sums;  // [num_rows], from sum_rows to append_rows
  Matrix x;           // [num_rows, columns]
  const std::int64_t* cu_rows;  // [num_prompts + 1]
  std::int64_t num_prompts;
  std::int64_t num_rows;
  std::int64_t columns;
  Dtype dtype;  // of x
};

/// Queues the sums of each row on `stream`; then append_rows, which may be another stream that follows it, adds them to
/// their prompts. Formula: device/ops.h. Throws Error(device) if the launch is refused.
void sum_rows(const AppendStatistics& args, cudaStream_t stream);
void append_rows(const AppendStatistics& args, cudaStream_t stream);

}  // namespace layerprobe::kernels
