#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "placement/module_tree.h"

namespace layerprobe::placement {

/// Bytes of weights that each place may hold, in the order in which places are filled: devices, the host's memory, the
/// disk, which has no end.
struct WeightBudgets {
  std::vector<std::int64_t> devices;
  std::optional<std::int64_t> host;

  bool operator==(const WeightBudgets&) const = default;
};

/// What a balanced share is larger by, so that rounding to whole layers does not spill: five quarters of the largest
/// layer or, where that is more, of a leaf, by the release of transformers. The mean one up to 5.17 (8B over four GPUs:
/// 5, 10, 10 and 7 layers), the largest one in 5.23.0, which we follow (7, 12, 12 and 1).
enum class Slack { mean_leaf, largest_leaf };

/// What transformers' `balanced` and `balanced_low_0` make of budgets before they fill them: get_balanced_memory in
/// transformers 5.23.0's integrations/accelerate.py, for budgets that a user gave. Its factor of 0.9 for a single GPU
/// without max_memory is left out: it stands for activations, which our budgets have taken off already. Device ids that
/// do not count from 0 raise a KeyError there; here the first device is GPU 0.
WeightBudgets balanced_budgets(const TreeModule& root, WeightBudgets budgets, bool low_0,
                               Slack slack = Slack::largest_leaf);

/// Modules or tensors by their path and the place each goes to: a device's number, number_of_devices for the host, one
/// more for the disk. infer_auto_device_map of the same file: places are filled one after the other, never gone back
/// to; the first device and the host keep room for the largest leaf that is still to come.
/// Two things that fail there work here: a tied parameter that was placed already stays where it is (IndexError there),
/// and buffers of a module that is opened are placed with its parameters (without a device there).
using Filled = std::vector<std::pair<std::string, std::size_t>>;
Filled fill(const TreeModule& root, const WeightBudgets& budgets);

}  // namespace layerprobe::placement
