#pragma once

#include <optional>
#include <string>

#include "check/item.h"
#include "device/backends.h"

namespace layerprobe::check {

/// What of libraries is here.
struct Versions {
  std::optional<device::CudaLibraries> cuda;  // nothing: there is no GPU that it could use
  std::string driver;                         // of NVIDIA, as NVML tells it: "580.95.05"; empty: not told
  std::string hdf5;
};

/// Whether they fit together. Where no GPU is used what belongs to GPUs is skipped.
Items judge_versions(const Versions& versions, std::size_t num_gpus);

}  // namespace layerprobe::check
