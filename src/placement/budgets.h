#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

#include "placement/device_map.h"
#include "placement/max_memory.h"
#include "placement/placement.h"

namespace layerprobe::placement {

/// What there is to place a model on.
struct Machine {
  struct Gpu {
    Device device;
    std::uint64_t bytes = 0;
  };
  std::vector<Gpu> gpus = {};
  std::uint64_t host_bytes = 0;
};

/// GPUs from their sizes: "8x80GiB", "75GiB,40GiB", "2x80GiB,40GiB"; cuda:0 is the first. Throws Error(usage).
std::vector<Machine::Gpu> parse_gpus(std::string_view given);

/// The devices that a map may use, in the order in which they are filled, each with its limit and nothing reserved:
/// those that the map names, else the GPUs, else cpu:0. A device that --max-memory does not name gets nothing, and is
/// left out. A map by names ignores --max-memory: its devices have all their memory.
/// Throws Error(usage) for a device that is not there, and when no device is left.
std::vector<DeviceBudget> device_budgets(const DeviceMap& map, const MaxMemory& max_memory, const Machine& machine);

/// Bytes of host memory for weights that wait there.
std::uint64_t host_budget(const DeviceMap& map, const MaxMemory& max_memory, const Machine& machine);

}  // namespace layerprobe::placement
