#include "placement/device.h"

#include <charconv>

#include "base/text.h"

namespace layerprobe::placement {
namespace {

constexpr int kMaxIndex = 4095;

std::optional<int> index_of(std::string_view digits) {
  int index = 0;
  const auto [end, problem] = std::from_chars(digits.data(), digits.data() + digits.size(), index);
  if (problem != std::errc{} || end != digits.data() + digits.size() || index < 0 || index > kMaxIndex) {
    return std::nullopt;
  }
  return index;
}

}  // namespace

std::string name_of(Device device) { return text(device.kind == Device::Kind::cuda ? "cuda:" : "cpu:", device.index); }

std::optional<Device> find_device(std::string_view name) {
  if (name == "cuda") return Device{Device::Kind::cuda, 0};
  Device::Kind kind = Device::Kind::cuda;
  if (name.starts_with("cuda:")) {
    name.remove_prefix(5);
  } else if (name.starts_with("cpu:")) {
    name.remove_prefix(4);
    kind = Device::Kind::cpu;
  }
  const std::optional<int> index = index_of(name);
  if (!index) return std::nullopt;
  return Device{kind, *index};
}

}  // namespace layerprobe::placement
