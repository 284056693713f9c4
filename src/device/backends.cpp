#include "device/backends.h"

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
std::optional<int> gpu_index(std::string_view name) {
  if (name == "cuda") return 0;
  if (!name.starts_with("cuda:")) return std::nullopt;
  name.remove_prefix(5);
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
  if (name == "cpu" || name == "cpu:0") return cpu_ops();
  const std::optional<int> index = gpu_index(name);
  if (!index) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "device",
                 .what = text("\"", name, "\" is no device"),
                 .fix = "name cpu, or a GPU as in cuda:0"});
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
