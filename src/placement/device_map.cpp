#include "placement/device_map.h"

#include <algorithm>
#include <array>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

namespace layerprobe::placement {
namespace {

constexpr const char* kOption = "--device-map";
constexpr const char* kForms =
    "write auto, balanced, balanced_low_0, sequential, cuda, cuda:N, cpu, a list as cuda:0,cuda:1, or a JSON object of "
    "modules and devices (@FILE.json for one in a file)";
constexpr const char* kTargets = "write a GPU's number, \"cuda:N\", \"cpu\" or \"disk\"";
constexpr std::uint64_t kMaxFileBytes = 10'000'000;

using Strategy = DeviceMap::Strategy;
constexpr std::array<std::pair<std::string_view, Strategy>, 4> kStrategies = {
    {{"auto", Strategy::even},
     {"balanced", Strategy::balanced},
     {"balanced_low_0", Strategy::balanced_low_0},
     {"sequential", Strategy::sequential}}};

DeviceMap all_on(Device device) {
  return {.strategy = Strategy::by_name, .devices = {}, .modules = {{"", {.device = device}}}};
}

std::string with_nearest(std::string what, std::string_view name) {
  const std::vector<std::string> words = {"auto", "balanced", "balanced_low_0", "sequential", "cuda", "cpu", "disk"};
  const std::vector<std::string> nearest = nearest_names(name, words, 1);
  return nearest.empty() ? what : text(what, "; did you mean ", nearest.front(), "?");
}

DeviceMap from_list(std::string_view given) {
  DeviceMap map;
  for (const std::string& piece : split(given, ',')) {
    const std::string_view name = trimmed(piece);
    const std::optional<Device> device = find_device(name);
    const auto refuse = [&](std::string what) {
      return Error({.kind = ErrorKind::usage, .where = kOption, .what = std::move(what), .fix = kForms});
    };
    if (!device) throw refuse(with_nearest(text("\"", name, "\" is no device that computes"), name));
    if (std::ranges::count(map.devices, *device) > 0) throw refuse(text(name_of(*device), " stands in it twice"));
    if (!map.devices.empty() && map.devices.front().kind != device->kind) {
      throw refuse(text("mixes ", name_of(map.devices.front()), " and ", name_of(*device)));
    }
    map.devices.push_back(*device);
  }
  return map;
}

Target target_of(const Json& value, const std::string& where, ErrorKind kind) {
  const auto refuse = [&](std::string what) {
    return Error({.kind = kind, .where = where, .what = std::move(what), .fix = kTargets});
  };
  if (value.is_integer()) {
    const std::optional<Device> device = find_device(std::to_string(value.integer()));
    if (!device) throw refuse(text(value.integer(), " is no GPU's number; the host's memory is \"cpu\""));
    return {.device = *device};
  }
  if (!value.is_string()) throw refuse(text("is ", value.kind(), " where a device is expected"));
  if (value.string() == "cpu") return {.kind = Target::Kind::host};
  if (value.string() == "disk") return {.kind = Target::Kind::disk};
  const std::optional<Device> device = find_device(value.string());
  if (!device) throw refuse(with_nearest(text("\"", value.string(), "\" is no device"), value.string()));
  return {.device = *device};
}

DeviceMap from_json(std::string_view contents, const std::string& where, ErrorKind kind) {
  const auto refuse = [&](std::string what) {
    return Error({.kind = kind, .where = where, .what = std::move(what), .fix = kForms});
  };
  Json json;
  try {
    json = Json::parse(contents, where);
  } catch (const Error& error) {  // what was typed is no file
    throw Error({.kind = kind, .where = where, .what = error.parts().what, .fix = kForms});
  }
  if (!json.is_object()) throw refuse(text("is ", json.kind(), " where an object of modules and devices is expected"));
  if (json.members().empty()) throw refuse("is an empty object");
  DeviceMap map{.strategy = Strategy::by_name, .devices = {}, .modules = {}};
  for (const auto& [name, value] : json.members()) {
    map.modules.emplace_back(name, target_of(value, text(where, ": \"", name, "\""), kind));
  }
  return map;
}

}  // namespace

DeviceMap parse_device_map(std::string_view given) {
  given = trimmed(given);
  for (const auto& [name, strategy] : kStrategies) {
    if (given == name) return {.strategy = strategy, .devices = {}, .modules = {}};
  }
  if (given == "cpu") return all_on({Device::Kind::cpu, 0});
  if (const std::optional<Device> device = find_device(given)) return all_on(*device);
  if (given.starts_with("@")) {
    const std::string path(given.substr(1));
    return from_json(read_text_file(path, kMaxFileBytes), path, ErrorKind::input);
  }
  if (given.starts_with("{")) return from_json(given, kOption, ErrorKind::usage);
  if (given.find(',') != std::string_view::npos) return from_list(given);
  throw Error({.kind = ErrorKind::usage,
               .where = kOption,
               .what = given.empty() ? "is empty" : with_nearest(text("\"", given, "\" is no map"), given),
               .fix = given.starts_with("-") ? "write cpu for the host, or a GPU's number from 0 on" : kForms});
}

}  // namespace layerprobe::placement
