#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "device/ops.h"

namespace layerprobe::device {

struct DeviceInfo {
  std::string name;           // "cuda:0"
  std::string model;          // "NVIDIA H100 80GB HBM3"
  std::uint64_t total_bytes;  // of its memory
  bool is_supported;          // new enough for us
};

/// The GPUs of this machine, in CUDA's order; none where there is no driver or the program was built without CUDA.
std::vector<DeviceInfo> gpus();

/// Where programs keep what can be made again: layerprobe's folder in XDG_CACHE_HOME, else in ~/.cache; empty where
/// there is neither.
std::filesystem::path default_cache_folder();

/// "cpu", or "cuda:N" ("cuda" is cuda:0). Throws Error, one clear line, when there is no such device or it cannot be
/// used: no driver, no GPU, too old, full, no CUDA in this program. What a device had to try out, it remembers in
/// `cache_folder`; nowhere when that is empty.
std::unique_ptr<Ops> open_device(std::string_view name,
                                 const std::filesystem::path& cache_folder = default_cache_folder());

}  // namespace layerprobe::device
