#include "device/backends.h"

#include <algorithm>
#include <charconv>
#include <cstdlib>
#include <optional>

#include "base/error.h"
#include "base/text.h"
#if LAYERPROBE_CUDA
#include "device/cuda/gpus.h"
#include "device/cuda/nccl.h"
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

#if !LAYERPROBE_CUDA
Error without_cuda(std::string where) {
  return Error({.kind = ErrorKind::usage,
                .where = std::move(where),
                .what = "this program was built without its GPU backend",
                .fix = "build it where CMake finds the CUDA toolkit (-DLAYERPROBE_CUDA=ON), or use --device-map cpu"});
}
#endif

}  // namespace

std::vector<DeviceInfo> gpus() {
#if LAYERPROBE_CUDA
  return cuda::gpus();
#else
  return {};
#endif
}

std::optional<CudaLibraries> cuda_libraries() {
#if LAYERPROBE_CUDA
  return cuda::libraries();
#else
  return std::nullopt;
#endif
}

AllReduce all_reduce(std::span<const std::string> gpus, std::size_t bytes) {
  std::vector<int> indices;
  for (const std::string& name : gpus) {
    const std::optional<int> index = index_of(name, "cuda");
    expect(index.has_value(), "GPUs sum over GPUs");
    indices.push_back(*index);
  }
#if LAYERPROBE_CUDA
  return cuda::all_reduce(indices, bytes);
#else
  static_cast<void>(bytes);
  throw without_cuda(gpus.empty() ? "cuda" : gpus.front());
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
  throw without_cuda(std::string(name));
#endif
}

}  // namespace layerprobe::device
