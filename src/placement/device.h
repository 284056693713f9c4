#pragma once

#include <compare>
#include <optional>
#include <string>
#include <string_view>

namespace layerprobe::placement {

/// What computes: a GPU, or a virtual device on the host's processors.
struct Device {
  enum class Kind { cuda, cpu };
  Kind kind = Kind::cuda;
  int index = 0;

  auto operator<=>(const Device&) const = default;
};

/// "cuda:1", "cpu:0"
std::string name_of(Device device);

/// The device of "cuda:1", "cuda" (the first), "1" (as torch numbers GPUs) or "cpu:0"; nothing for anything else,
/// "cpu" too, which is the host's memory.
std::optional<Device> find_device(std::string_view name);

}  // namespace layerprobe::placement
