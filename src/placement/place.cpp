#include "placement/place.h"

#include <algorithm>
#include <iomanip>
#include <optional>
#include <unordered_map>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "placement/by_name.h"
#include "placement/even.h"
#include "placement/transformers.h"

namespace layerprobe::placement {
namespace {

using Strategy = DeviceMap::Strategy;

std::string seconds_text(double seconds) { return text(std::setprecision(3), seconds, " s"); }

Placement one_pipeline(const Request& request) {
  Placement out;
  out.devices = request.devices;
  out.replicas.emplace_back();
  for (const DeviceBudget& budget : out.devices) out.replicas.front().push_back(budget.device);
  out.modules.resize(request.work.modules.size());
  return out;
}

/// Throws Error(resource), naming the module at which a device is full.
void expect_fits(const Request& request, const Placement& placement) {
  const std::vector<DeviceLoad> loads = device_loads(request.work, placement);
  for (std::size_t device = 0; device < loads.size(); ++device) {
    const DeviceBudget& budget = placement.devices[device];
    if (loads[device].weights_bytes() <= budget.weights_limit()) continue;
    std::uint64_t left = budget.weights_limit();
    left -= std::min(left, loads[device].stream_buffer_bytes());
    std::size_t at = request.work.modules.size() - 1;
    for (std::size_t i = 0; i < request.work.modules.size(); ++i) {
      const Placed& placed = placement.modules[i];
      if (placed.device != device || placed.home != Home::resident) continue;
      at = i;
      const std::uint64_t bytes = request.work.modules[i].weights_bytes;
      if (bytes > left) break;
      if (!request.work.one_at_a_time) left -= bytes;
    }
    throw Error({.kind = ErrorKind::resource,
                 .where = text("--device-map: ", request.work.modules[at].name),
                 .what = text("does not fit on ", name_of(budget.device), ": needs ",
                              bytes_text(request.work.modules[at].weights_bytes), ", ", bytes_text(left), " left of ",
                              bytes_text(budget.limit), " (", bytes_text(budget.reserved),
                              " are for activations, workspace and captures)"),
                 .fix = "send more of the model to other devices, cpu or disk, or use --device-map auto"});
  }
}

Placement place_by_name(const Request& request) {
  Placement placement = one_pipeline(request);
  const std::vector<Target> targets = targets_by_name(request);
  const bool has_device = std::ranges::any_of(
      request.map.modules, [](const auto& entry) { return entry.second.kind == Target::Kind::device; });
  for (std::size_t i = 0; i < targets.size(); ++i) {
    const Target& target = targets[i];
    if (target.kind == Target::Kind::disk) placement.modules[i].home = Home::disk;
    if (target.kind == Target::Kind::host && has_device) placement.modules[i].home = Home::host;
    if (target.kind != Target::Kind::device) continue;
    const auto device = std::ranges::find(placement.devices, target.device, &DeviceBudget::device);
    placement.modules[i].device = static_cast<std::size_t>(device - placement.devices.begin());
  }
  for (const DeviceBudget& device : placement.devices) {
    placement.weights_limits.push_back(static_cast<std::int64_t>(device.weights_limit()));
  }
  placement.weights_budgets = placement.weights_limits;
  return placement;
}

/// The device or home of each module as transformers' planner has it, where `taken` bytes of each device are not to be
/// filled.
Placement fill_as_transformers(const Request& request, std::uint64_t taken) {
  Placement placement = one_pipeline(request);
  // The host's memory is a device's where that computes.
  const bool is_host_alone = request.map.devices.empty() && request.devices.size() == 1 &&
                             request.devices.front().device.kind == Device::Kind::cpu;
  WeightBudgets budgets;
  for (const DeviceBudget& device : request.devices) {
    const std::uint64_t limit = device.weights_limit();
    budgets.devices.push_back(static_cast<std::int64_t>(limit - std::min(limit, taken)));
  }
  budgets.host = static_cast<std::int64_t>(request.host_limit);
  placement.weights_limits = budgets.devices;
  if (is_host_alone) budgets = {.devices = {}, .host = budgets.devices.front()};
  if (request.map.strategy != Strategy::sequential) {
    budgets = balanced_budgets(request.tree, budgets, request.map.strategy == Strategy::balanced_low_0);
  }
  placement.weights_budgets = is_host_alone ? std::vector{*budgets.host} : budgets.devices;

  std::unordered_map<std::string, std::size_t> places;
  for (auto& [name, place] : fill(request.tree, budgets)) places.emplace(std::move(name), place);
  for (std::size_t i = 0; i < request.work.modules.size(); ++i) {
    std::string prefix = request.work.modules[i].name;
    while (!places.contains(prefix)) {
      const std::size_t dot = prefix.rfind('.');
      expect(dot != std::string::npos, "the planner places every module");
      prefix.resize(dot);
    }
    const std::size_t place = places.at(prefix);
    Placed& placed = placement.modules[i];
    if (place < budgets.devices.size()) {
      placed.device = place;
    } else if (place > budgets.devices.size()) {
      placed.home = Home::disk;
    } else if (!is_host_alone) {
      placed.home = Home::host;
    }
  }
  return placement;
}

Placement place_as_transformers(const Request& request) {
  Placement placement = fill_as_transformers(request, 0);
  const auto is_streamed = [](const Placed& placed) { return placed.home != Home::resident; };
  if (std::ranges::none_of(placement.modules, is_streamed)) return placement;
  std::uint64_t largest = 0;
  for (const Module& module : request.work.modules) largest = std::max(largest, module.weights_bytes);
  return fill_as_transformers(request, 2 * largest);  // what streams needs room on its way
}

bool is_as_transformers(Strategy strategy) {
  return strategy == Strategy::balanced || strategy == Strategy::balanced_low_0 || strategy == Strategy::sequential;
}

std::string_view name_of(Strategy strategy) {
  switch (strategy) {
    case Strategy::even:
      return "auto";
    case Strategy::balanced:
      return "balanced";
    case Strategy::balanced_low_0:
      return "balanced_low_0";
    case Strategy::sequential:
      return "sequential";
    case Strategy::by_name:
      return "the map";
  }
  return "?";
}

}  // namespace

Placement place(const Request& request) {
  expect(!request.devices.empty(), "there is a device to place on");
  if (request.map.strategy == Strategy::even) return place_evenly(request);
  Placement placement =
      is_as_transformers(request.map.strategy) ? place_as_transformers(request) : place_by_name(request);
  deal_streamed(request, placement);
  choose_waves(request.work, placement);
  expect_fits(request, placement);
  return placement;
}

std::vector<Cut> explain_cuts(const Request& request, const Placement& placement) {
  std::vector<Cut> cuts;
  const std::vector<DeviceLoad> loads = device_loads(request.work, placement);
  std::vector<std::uint64_t> resident(placement.devices.size());  // so far
  for (std::size_t i = 0; i < request.work.modules.size(); ++i) {
    const Module& module = request.work.modules[i];
    const std::size_t device = placement.modules[i].device;
    if (i > 0 && placement.modules[i - 1].device != device) {
      const std::size_t before = placement.modules[i - 1].device;
      const std::string name = name_of(placement.devices[before].device);
      const std::uint64_t budget = request.map.strategy == Strategy::even
                                       ? placement.devices[before].weights_limit()
                                       : static_cast<std::uint64_t>(placement.weights_budgets[before]);
      const std::uint64_t held = resident[before] + loads[before].stream_buffer_bytes();
      const std::uint64_t left = budget - std::min(budget, held);
      std::string why;
      if (request.map.strategy == Strategy::by_name) {
        why = text("the map sends ", module.name, " to ", name_of(placement.devices[device].device));
      } else if (module.weights_bytes > left && !request.work.one_at_a_time) {
        why = text(module.name, " does not fit on ", name, ": needs ", bytes_text(module.weights_bytes), ", ",
                   bytes_text(left), " left of ", bytes_text(budget), " for weights");
      } else if (is_as_transformers(request.map.strategy)) {
        why = text(name_of(request.map.strategy), " gives ", name, " ", bytes_text(budget),
                   " and keeps room there for the largest module still to come; ", module.name, " needs ",
                   bytes_text(module.weights_bytes));
      } else {
        why = text("even times: ", name, " computes ", seconds_text(loads[before].compute_seconds), ", ",
                   name_of(placement.devices[device].device), " ", seconds_text(loads[device].compute_seconds),
                   "; with ", module.name, " ", name, " would take ",
                   seconds_text(loads[before].compute_seconds + module.compute_seconds));
      }
      cuts.push_back({.module = i, .why = std::move(why)});
    }
    if (placement.modules[i].home == Home::resident) resident[device] += module.weights_bytes;
  }
  return cuts;
}

std::int64_t smallest_number_of_devices(const Work& work, const DeviceBudget& device) {
  const std::uint64_t limit = device.weights_limit();
  std::int64_t count = 1;
  std::uint64_t held = 0;
  for (const Module& module : work.modules) {
    if (module.weights_bytes > limit) return 0;
    if (work.one_at_a_time) continue;
    if (held + module.weights_bytes > limit) {
      ++count;
      held = 0;
    }
    held += module.weights_bytes;
  }
  return count;
}

}  // namespace layerprobe::placement
