#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "device/nvml.h"
#include "device/ops.h"

namespace layerprobe::device {

struct DeviceInfo {
  std::string name;               // "cuda:0"
  std::string model;              // "NVIDIA H100 80GB HBM3"
  std::uint64_t total_bytes = 0;  // of its memory
  int capability = 0;             // 90 for compute capability 9.0
  bool is_supported = false;      // new enough for us
  PciAddress address;
};

/// The GPUs of this machine, in CUDA's order; none where there is no driver or the program was built without CUDA.
std::vector<DeviceInfo> gpus();

/// What of CUDA there is here. Versions as CUDA counts them: 13000 is 13.0.
struct CudaLibraries {
  int driver = 0;   // the newest CUDA that the driver knows; 0: there is no driver
  int runtime = 0;  // the one that the program is linked with
  struct Found {
    std::string version;  // "13.1.0"
    std::string problem;  // why there is none; empty when there is
  };
  Found cublaslt, nccl;  // opened to ask
};
/// Nothing in a program that was built without its GPU backend.
std::optional<CudaLibraries> cuda_libraries();

/// A sum over GPUs by NCCL.
struct AllReduce {
  std::string version;          // of NCCL
  std::string wrong = {};       // the first element that is not the sum: empty when all are
  double bytes_per_second = 0;  // through each GPU, each way: 2 (n - 1) / n times the bytes that are summed
};
/// Of `bytes` on each of the GPUs ("cuda:0", two or more), whose every element is checked. Throws Error(device) when
/// NCCL is not there, refuses, or has not finished after a minute.
AllReduce all_reduce(std::span<const std::string> gpus, std::size_t bytes);

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
