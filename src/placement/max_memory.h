#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "placement/device.h"

namespace layerprobe::placement {

/// --max-memory as it was typed: bytes. A limit covers everything that is taken on a device, not weights alone.
struct MaxMemory {
  std::optional<std::uint64_t> each;        // "40GB": of each device
  std::vector<std::uint64_t> in_order;      // "75GiB,40GiB": of the first, the second, ...
  std::map<Device, std::uint64_t> devices;  // "cuda:0:40GiB"; a device that is not named gets nothing
  std::optional<std::uint64_t> host;        // "cpu:200GB"

  bool limits_devices() const { return each || !in_order.empty() || !devices.empty(); }
};

/// "40GB", "75GiB,75GiB", "0:60GB,1:40GB,cpu:200GB", "cuda:0:40GiB" (the last colon separates), "cpu:0:4GB" (a virtual
/// device), {"cuda:0": "10GB", "cpu": "64GiB", "1": 1000}; a size for each device or in order may be followed by one
/// for cpu. What is said of disk is checked and has no effect: the disk always stands behind. Sizes are base/bytes.h's,
/// with their unit. Empty text: no limit. Throws Error(usage).
MaxMemory parse_max_memory(std::string_view given);

/// A size as above: with its unit, unless it is 0. Throws Error(usage) naming `option`.
std::uint64_t parse_limit(std::string_view given, const std::string& option);

}  // namespace layerprobe::placement
