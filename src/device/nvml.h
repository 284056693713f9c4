#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace layerprobe::device {

/// Where a GPU is on the PCI bus: what CUDA's devices and NVML's have in common.
struct PciAddress {
  unsigned domain = 0;
  unsigned bus = 0;
  unsigned device = 0;

  auto operator<=>(const PciAddress&) const = default;
};
/// "0000:1b:00"
std::string text_of(PciAddress address);

/// The little of NVIDIA's management library (libnvidia-ml.so.1, a part of the driver) that we call, declared as its
/// header nvml.h has it (version 13; these have been the same since 11, and names with _v2, _v3 never change). Absent
/// functions are nullptr: older drivers lack some.
struct NvmlFunctions {
  using Device = void*;  // nvmlDevice_t
  using Result = int;    // nvmlReturn_t
  static constexpr Result kSuccess = 0, kDriverNotLoaded = 9, kGpuIsLost = 15, kResetRequired = 16;
  static constexpr Result kVersionMismatch = 18;

  struct Pci {  // nvmlPciInfo_t
    char old_bus_id[16];
    unsigned domain, bus, device, pci_device_id, pci_subsystem_id;
    char bus_id[32];
  };
  struct Memory {  // nvmlMemory_v2_t
    unsigned version;
    unsigned long long total, reserved, free, used;
  };
  static constexpr unsigned kMemoryVersion = sizeof(Memory) | 2u << 24;
  struct Process {  // nvmlProcessInfo_v2_t
    unsigned pid;
    unsigned long long used_bytes;  // all ones: not known
    unsigned gpu_instance, compute_instance;
  };
  struct Field {  // nvmlFieldValue_t
    unsigned field, scope;
    long long timestamp, latency;
    int type;
    Result result;
    union {
      double as_double;
      unsigned as_unsigned;
      unsigned long long as_u64;
    } value;
  };
  struct Utilization {  // nvmlUtilization_t: percent of the last second or so
    unsigned gpu, memory;
  };
  static constexpr unsigned kFieldLinkSpeed = 164;  // NVML_FI_DEV_NVLINK_GET_SPEED: MB/s, of the link `scope`
  static constexpr int kSmClock = 1, kUncorrectedErrors = 1, kSinceStart = 0, kLinkRecoveries = 1, kByNvlink = 2;

  Result (*init)() = nullptr;
  Result (*shutdown)() = nullptr;
  const char* (*error_string)(Result) = nullptr;
  Result (*driver_version)(char* out, unsigned size) = nullptr;
  Result (*count)(unsigned* out) = nullptr;
  Result (*by_index)(unsigned index, Device* out) = nullptr;
  Result (*name)(Device, char* out, unsigned size) = nullptr;
  Result (*pci)(Device, Pci* out) = nullptr;
  Result (*memory)(Device, Memory* out) = nullptr;
  Result (*processes)(Device, unsigned* count, Process* out) = nullptr;
  Result (*ecc_mode)(Device, int* current, int* pending) = nullptr;
  Result (*ecc_errors)(Device, int type, int counter, unsigned long long* out) = nullptr;
  Result (*retired_pages)(Device, int cause, unsigned* count, unsigned long long* addresses) = nullptr;
  Result (*retirement_pending)(Device, int* out) = nullptr;
  Result (*remapped_rows)(Device, unsigned* corrected, unsigned* uncorrected, unsigned* pending,
                          unsigned* failed) = nullptr;
  Result (*slowdown_reasons)(Device, unsigned long long* out) = nullptr;
  Result (*clock)(Device, int type, unsigned* out) = nullptr;
  Result (*most_clock)(Device, int type, unsigned* out) = nullptr;
  Result (*temperature)(Device, int sensor, unsigned* out) = nullptr;
  Result (*utilization)(Device, Utilization* out) = nullptr;
  Result (*power_limit)(Device, unsigned* out) = nullptr;
  Result (*default_power_limit)(Device, unsigned* out) = nullptr;
  Result (*pcie_generation)(Device, unsigned* out) = nullptr;
  Result (*most_pcie_generation)(Device, unsigned* out) = nullptr;
  Result (*pcie_width)(Device, unsigned* out) = nullptr;
  Result (*most_pcie_width)(Device, unsigned* out) = nullptr;
  Result (*compute_mode)(Device, int* out) = nullptr;
  Result (*mig_mode)(Device, unsigned* current, unsigned* pending) = nullptr;
  Result (*link_state)(Device, unsigned link, int* out) = nullptr;
  Result (*link_remote)(Device, unsigned link, Pci* out) = nullptr;
  Result (*link_errors)(Device, unsigned link, int counter, unsigned long long* out) = nullptr;
  Result (*fields)(Device, int count, Field* values) = nullptr;
  Result (*peer_status)(Device, Device, int index, int* out) = nullptr;
};

/// How a GPU is, as NVML says; nothing where it does not say (another kind of GPU, an older driver, a virtual machine).
struct GpuState {
  PciAddress address;
  std::string name;
  std::string lost;  // why it cannot be asked at all: "GPU is lost"; else empty

  struct Memory {
    std::uint64_t total = 0, reserved = 0, free = 0, used = 0;  // bytes; used: without what is reserved
  };
  std::optional<Memory> memory;
  struct Processes {
    std::size_t count = 0;
    std::uint64_t bytes = 0;
  };
  std::optional<Processes> processes;  // that compute; none is seen in a container but its own

  std::optional<bool> ecc_enabled;
  std::optional<std::uint64_t> uncorrected_errors;  // since the driver was loaded
  std::optional<unsigned> retired_pages;            // before A100: pages that are out of use
  struct RemappedRows {
    unsigned corrected = 0, uncorrected = 0;
    bool is_pending = false, has_failed = false;
  };
  std::optional<RemappedRows> remapped_rows;  // since A100
  std::optional<bool> retirement_pending;

  /// Why the clocks are not the highest: bits.
  struct Slowdown {
    static constexpr std::uint64_t kClocksSet = 0x2, kPowerCap = 0x4, kHardware = 0x8, kThermal = 0x20,
                                   kHardwareThermal = 0x40, kPowerBrake = 0x80;
  };
  std::optional<std::uint64_t> slowdown_reasons;
  std::optional<unsigned> sm_clock_mhz, most_sm_clock_mhz;
  std::optional<unsigned> temperature;  // degrees Celsius
  std::optional<unsigned> utilization;  // percent of the last second or so in which a kernel ran
  std::optional<unsigned> power_limit_mw, default_power_limit_mw;

  struct Pcie {
    unsigned generation = 0, width = 0;            // an idle GPU may have a lower generation
    unsigned most_generation = 0, most_width = 0;  // of this GPU in this slot
  };
  std::optional<Pcie> pcie;

  enum class ComputeMode { shared = 0, exclusive_thread = 1, prohibited = 2, exclusive_process = 3 };
  std::optional<ComputeMode> compute_mode;
  std::optional<bool> is_divided;  // MIG

  struct Link {
    bool is_active = false;
    double bytes_per_second = 0;            // each way, as NVML has it; 0: not known
    std::optional<PciAddress> remote = {};  // a GPU, or a switch
    std::uint64_t recoveries = 0;           // of its errors, since the driver was loaded
  };
  std::vector<Link> links;  // NVLink, those that there could be

  /// GPUs to which NVML says this one's peer copies go by NVLink.
  std::vector<PciAddress> nvlink_peers;
};

/// NVML, started. One thread at a time.
class Nvml {
 public:
  /// Throws Error(device), one clear line, when it cannot be started.
  explicit Nvml(const NvmlFunctions& functions);
  ~Nvml();
  Nvml(const Nvml&) = delete;
  Nvml& operator=(const Nvml&) = delete;

  /// "580.95.05"; empty where it is not told.
  std::string driver_version() const;
  /// All GPUs of the machine that this program may see, those that CUDA_VISIBLE_DEVICES hides too.
  std::vector<GpuState> gpus() const;

 private:
  GpuState state_of(NvmlFunctions::Device device) const;

  NvmlFunctions functions_;
};

/// The driver's own. Throws Error(device) where there is no such library.
NvmlFunctions open_nvml();

}  // namespace layerprobe::device
