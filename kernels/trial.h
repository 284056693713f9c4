#pragma once

#include <cuda_runtime_api.h>

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace layerprobe::kernels {

// What trying out an algorithm for matrix products needs: values to multiply, and whether two results are the same.

/// Queues the filling of `out` ([count], of `dtype`) with numbers spread evenly over (-1, 1), the same for one seed.
/// Throws Error(device) if the launch is refused.
void random_values(void* out, std::int64_t count, Dtype dtype, std::uint32_t seed, cudaStream_t stream);

/// Queues the comparison of `bytes` (a multiple of 4) bytes: *differs becomes 1 unless all are the same, else stays.
/// All on the device. Throws Error(device) if the launch is refused.
void find_difference(const void* a, const void* b, std::size_t bytes, int* differs, cudaStream_t stream);

}  // namespace layerprobe::kernels
