#include "device/backends.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#if LAYERPROBE_CUDA
#include "device/cuda/cuda_ops.h"
#endif

namespace layerprobe::device {
namespace {

/// 3 of "cuda:3".
std::optional<int> index_of(std::string_view name, std::string_view kind) {
  if (name == kind) return 0;
  if (!name.starts_with(kind) || name[kind.size()] != ':') return std::nullopt;
  name.remove_prefix(kind.size() + 1);
  int index = 0;
  const auto [end, error] = std::from_chars(name.data(), name.data() + name.size(), index);
  if (error != std::errc() || end != name.data() + name.size() || index < 0) return std::nullopt;
  return index;
}

}  // namespace

std::vector<DeviceInfo> gpus() {
#if LAYERPROBE_CUDA
  return cuda::gpus();
#else
  return {};
#endif
}

std::filesystem::path default_cache_folder() {
  if (const char* const cache = std::getenv("XDG_CACHE_HOME"); cache != nullptr && *cache == '/') {
    return std::filesystem::path(cache) / "layerprobe";
  }
  const char* const home = std::getenv("HOME");
  return home != nullptr && *home == '/' ? std::filesystem::path(home) / ".cache" / "layerprobe"
                                         : std::filesystem::path();
}

std::unique_ptr<Ops> open_device(std::string_view name, const DeviceOptions& options) {
  if (index_of(name, "cpu")) {
    const bool is_alone = options.num_virtual_devices <= 1;
    if (is_alone) return cpu_ops(0, std::string(name == "cpu:0" ? "cpu" : name));
    return cpu_ops(std::max(1, cpu_threads() / options.num_virtual_devices), std::string(name));
  }
  const std::optional<int> index = index_of(name, "cuda");
  if (!index) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "device",
                 .what = text("\"", name, "\" is no device"),
                 .fix = "name cpu, cpu:N, or a GPU as in cuda:0"});
  }
#if LAYERPROBE_CUDA
  return cuda::cuda_ops(*index, options);
#else
  static_cast<void>(options);
  throw Error({.kind = ErrorKind::usage,
               .where = std::string(name),
               .what = "this program was built without its GPU backend",
               .fix = "build it where CMake finds the CUDA toolkit (-DLAYERPROBE_CUDA=ON), or use --device-map cpu"});
#endif
}

}  // namespace layerprobe::device
