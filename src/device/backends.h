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
  int capability;             // 90 for compute capability 9.0
  bool is_supported;          // new enough for us
};

/// The GPUs of this machine, in CUDA's order; none where there is no driver or the program was built without CUDA.
std::vector<DeviceInfo> gpus();

/// Where programs keep what can be made again: layerprobe's folder in XDG_CACHE_HOME, else in ~/.cache; empty where
/// there is neither.
std::filesystem::path default_cache_folder();

struct DeviceOptions {
  /// What a device had to try out, it remembers there; nowhere when it is empty.
  std::filesystem::path cache_folder = default_cache_folder();
  /// Kernels for newer GPUs than of this compute capability are left out: 80 for those of an A100. For tests.
  int newest_capability = 1000;
  /// Of virtual devices on the host's processors, those that share them.
  int num_virtual_devices = 1;
};

/// "cpu" (as cpu:0), "cpu:N", a virtual device with its share of the host's threads, or "cuda:N" ("cuda" is cuda:0).
/// Throws Error, one clear line, when there is no such device or it cannot be used: no driver, no GPU, too old, full,
/// no CUDA in this program.
std::unique_ptr<Ops> open_device(std::string_view name, const DeviceOptions& options = {});

}  // namespace layerprobe::device
