#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "placement/device_map.h"
#include "placement/module_tree.h"
#include "placement/placement.h"

namespace layerprobe::placement {

struct Request {
  const DeviceMap& map;
  const Work& work;
  /// The whole model, whatever of it runs: what transformers' strategies see, and the names that a map may use. `even`
  /// does not look at it.
  const TreeModule& tree;
  std::vector<DeviceBudget> devices;  // in the order in which they are filled
  std::uint64_t host_limit = 0;       // for weights that wait in the host's memory
  std::int64_t num_replicas = 0;      // 0: as many as pay
};

/// Pure arithmetic: asks no device. Where a strategy's words come from, and where it leaves them, is in
/// docs/placement.md.
/// Throws Error(usage) for names that the model does not have, names below a layer and modules that a map leaves out;
/// Error(resource), naming the module, its need and what is left, for what does not fit.
Placement place(const Request& request);

/// Why a module is not on the device of the one before it, for each place where the device changes:
/// "model.layers.31 does not fit on cuda:0: needs 3.7 GB, 1.2 GB left".
struct Cut {
  std::size_t module = 0;  // the first one behind the cut
  std::string why;
};
std::vector<Cut> explain_cuts(const Request& request, const Placement& placement);

/// The smallest number of devices like this one that would hold the model, all weights resident; 0 when no number does.
std::int64_t smallest_number_of_devices(const Work& work, const DeviceBudget& device);

}  // namespace layerprobe::placement
