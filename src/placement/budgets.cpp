#include "placement/budgets.h"

#include <algorithm>
#include <charconv>
#include <string>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::placement {
namespace {

bool is_by_name(const DeviceMap& map) { return map.strategy == DeviceMap::Strategy::by_name; }

bool is_there(Device device, const Machine& machine) {
  return device.kind == Device::Kind::cpu ||
         std::ranges::any_of(machine.gpus, [&](const Machine::Gpu& gpu) { return gpu.device == device; });
}

void expect_there(Device device, const Machine& machine, const char* option) {
  if (is_there(device, machine)) return;
  std::vector<std::string> names;
  for (const Machine::Gpu& gpu : machine.gpus) names.push_back(name_of(gpu.device));
  throw Error({.kind = ErrorKind::usage,
               .where = option,
               .what = text(name_of(device), " is not there; ",
                            names.empty() ? "the machine has no GPU that can be used"
                                          : text("the machine has ", join(names, ", "))),
               .fix = names.empty() ? "use --device-map cpu" : text("name one of ", join(names, ", "))});
}

std::vector<Device> devices_of(const DeviceMap& map, const MaxMemory& max_memory, const Machine& machine) {
  std::vector<Device> devices = map.devices;
  if (is_by_name(map)) {
    for (const auto& [name, target] : map.modules) {
      if (target.kind == Target::Kind::device) devices.push_back(target.device);
    }
  }
  for (const Device device : devices) expect_there(device, machine, "--device-map");
  if (devices.empty() && !is_by_name(map)) {
    for (const auto& [device, bytes] : max_memory.devices) {
      if (device.kind == Device::Kind::cpu) devices.push_back(device);
    }
    if (devices.empty()) {
      for (const Machine::Gpu& gpu : machine.gpus) devices.push_back(gpu.device);
    }
  }
  if (devices.empty()) devices.push_back({Device::Kind::cpu, 0});
  if (is_by_name(map)) {
    std::ranges::sort(devices);
    devices.erase(std::unique(devices.begin(), devices.end()), devices.end());
  }
  return devices;
}

/// What there is of the device; virtual ones share the host's memory.
std::uint64_t bytes_of(Device device, const std::vector<Device>& devices, const Machine& machine) {
  if (device.kind == Device::Kind::cuda) {
    const auto is_it = [&](const Machine::Gpu& gpu) { return gpu.device == device; };
    return std::ranges::find_if(machine.gpus, is_it)->bytes;
  }
  return machine.host_bytes / std::max<std::uint64_t>(devices.size(), 1);
}

}  // namespace

std::vector<Machine::Gpu> parse_gpus(std::string_view given) {
  constexpr const char* kOption = "--gpus";
  constexpr int kMostGpus = 4096;
  std::vector<Machine::Gpu> gpus;
  for (const std::string& piece : split(given, ',')) {
    std::string_view size = trimmed(piece);
    int count = 1;
    if (const std::size_t times = size.find('x'); times != std::string_view::npos) {
      const auto [end, problem] = std::from_chars(size.data(), size.data() + times, count);
      const bool is_number = problem == std::errc{} && end == size.data() + times && count > 0;
      if (!is_number || count > kMostGpus - static_cast<int>(gpus.size())) {
        throw Error({.kind = ErrorKind::usage,
                     .where = kOption,
                     .what = text("\"", piece, "\" is no number of GPUs and size of each; there may be ", kMostGpus),
                     .fix = "write 8x80GiB, or 75GiB,40GiB"});
      }
      size.remove_prefix(times + 1);
    }
    const std::uint64_t bytes = parse_limit(size, kOption);
    for (int i = 0; i < count; ++i) {
      gpus.push_back({{Device::Kind::cuda, static_cast<int>(gpus.size())}, bytes});
    }
  }
  return gpus;
}

std::vector<DeviceBudget> device_budgets(const DeviceMap& map, const MaxMemory& max_memory, const Machine& machine) {
  const std::vector<Device> devices = devices_of(map, max_memory, machine);
  const bool is_limited = !is_by_name(map) && max_memory.limits_devices();
  for (const auto& [device, bytes] : max_memory.devices) expect_there(device, machine, "--max-memory");
  if (is_limited && max_memory.in_order.size() > devices.size()) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--max-memory",
                 .what = text("has ", max_memory.in_order.size(), " sizes for ", devices.size(),
                              devices.size() == 1 ? " device (" : " devices (", name_of(devices.front()), " to ",
                              name_of(devices.back()), ")"),
                 .fix = "give one size for each device, or one for all"});
  }
  std::vector<DeviceBudget> budgets;
  for (std::size_t i = 0; i < devices.size(); ++i) {
    const Device device = devices[i];
    std::uint64_t limit = bytes_of(device, devices, machine);
    if (is_limited && max_memory.each) limit = std::min(limit, *max_memory.each);
    if (is_limited && !max_memory.in_order.empty()) {
      if (i >= max_memory.in_order.size()) continue;
      limit = std::min(limit, max_memory.in_order[i]);
    }
    if (is_limited && !max_memory.devices.empty()) {
      const auto named = max_memory.devices.find(device);
      if (named == max_memory.devices.end()) continue;
      limit = std::min(device.kind == Device::Kind::cpu ? machine.host_bytes : limit, named->second);
    }
    if (device.kind == Device::Kind::cpu && max_memory.host && !is_by_name(map)) {
      limit = std::min(limit, *max_memory.host);
    }
    budgets.push_back({.device = device, .limit = limit});
  }
  if (budgets.empty()) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--max-memory",
                 .what = text("names none of the devices of --device-map (", name_of(devices.front()), " to ",
                              name_of(devices.back()), "), and a device that it does not name gets nothing"),
                 .fix = "name one of them"});
  }
  return budgets;
}

std::uint64_t host_budget(const DeviceMap& map, const MaxMemory& max_memory, const Machine& machine) {
  return is_by_name(map) || !max_memory.host ? machine.host_bytes : std::min(*max_memory.host, machine.host_bytes);
}

}  // namespace layerprobe::placement
