#pragma once

#include <cuda_runtime_api.h>

#include <string>
#include <string_view>

#include "base/error.h"

namespace layerprobe::kernels {

/// Throws Error(device), or Error(resource) when memory ran out, unless `status` is success. `doing` is the step in the
/// user's terms: "copy layer 17 to cuda:0".
///
/// CUDA reports a kernel's failure at some later call, so the message says how to find the real one.
inline void check(cudaError_t status, std::string_view doing) {
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the runtime keeps it, and would give it to the next launch
  const bool full = status == cudaErrorMemoryAllocation;
  throw Error({.kind = full ? ErrorKind::resource : ErrorKind::device,
               .where = std::string(doing),
               .what = std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status),
               .fix = full ? "lower --tokens-per-batch, or run fewer layers with --layers"
                           : "run again with CUDA_LAUNCH_BLOCKING=1: the failing step may be an earlier one"});
}

}  // namespace layerprobe::kernels
