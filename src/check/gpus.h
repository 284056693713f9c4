#pragma once

#include <optional>
#include <string>
#include <vector>

#include "check/item.h"
#include "device/backends.h"
#include "device/nvml.h"

namespace layerprobe::check {

/// A GPU as CUDA shows it, and as NVML does where it knows it.
struct Gpu {
  device::DeviceInfo info;
  std::optional<device::GpuState> state;

  const std::string& name() const { return info.name; }
};

/// The states belong to the GPUs of the same PCI addresses.
std::vector<Gpu> join(const std::vector<device::DeviceInfo>& gpus, const std::vector<device::GpuState>& states);

/// What NVML says of GPUs that do nothing, before this program takes any of their memory: memory, who holds it, errors
/// of the memory, clocks, the width of the way to the host, NVLink. GPUs that fell off the bus are among `states`
/// alone.
Items judge_idle(const std::vector<Gpu>& gpus, const std::vector<device::GpuState>& states);

/// The way to the host while something is copied there: only then has it its generation.
Item judge_pcie(const std::string& gpu, const device::GpuState::Pcie& pcie, bool is_busy);

/// Clocks, temperature and power; `is_busy`: while it multiplies.
Item judge_clocks(const std::string& gpu, const device::GpuState& state, bool is_busy);

/// What the hardware between the host and a GPU, or between two GPUs, could carry each way.
struct Way {
  double bytes_per_second = 0;  // 0: not known
  bool is_nvlink = false;
};
Way way_to_host(const Gpu& gpu);
Way way_between(const Gpu& from, const Gpu& to);

}  // namespace layerprobe::check
