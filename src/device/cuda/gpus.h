#pragma once

#include <memory>
#include <vector>

#include "device/backends.h"
#include "device/ops.h"

namespace layerprobe::device::cuda {

/// The GPUs that CUDA shows, those too old for us too; none where there is no driver.
std::vector<DeviceInfo> gpus();

/// The GPU of that number. Throws Error, one clear line, when there is no driver, no such GPU, or it is too old or
/// full.
std::unique_ptr<Ops> cuda_ops(int index, const DeviceOptions& options);

}  // namespace layerprobe::device::cuda
