#pragma once

#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "placement/device.h"

namespace layerprobe::placement {

/// Where a map sends a module: to a device that computes it and keeps its weights, or its weights to the host's memory
/// or the disk, from where they are brought to one of the map's devices when their turn comes.
struct Target {
  enum class Kind { device, host, disk };
  Kind kind = Kind::device;
  Device device = {};  // of Kind::device

  bool operator==(const Target&) const = default;
};

/// --device-map as it was typed.
struct DeviceMap {
  enum class Strategy {
    even,            // "auto": stages of even predicted time
    balanced,        // transformers' "auto" and "balanced"
    balanced_low_0,  // transformers'
    sequential,      // transformers'
    by_name,         // every module is named
  };
  Strategy strategy = Strategy::even;
  std::vector<Device> devices = {};                          // that may be used; empty: all there are
  std::vector<std::pair<std::string, Target>> modules = {};  // by_name: a dotted prefix ("" for all) and its target
};

/// auto, balanced, balanced_low_0, sequential, cuda, cuda:N, N, cpu, cpu:N, a comma-separated list of devices (`even`
/// over these), a JSON object of module names and devices (N, "cuda:N", "cpu:N", "cpu", "disk"), or @FILE with one.
/// Throws Error(usage), or Error(input) for what stands in a file.
DeviceMap parse_device_map(std::string_view given);

}  // namespace layerprobe::placement
