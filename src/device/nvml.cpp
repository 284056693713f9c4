#include "device/nvml.h"

#include <dlfcn.h>

#include <algorithm>
#include <cstdio>
#include <cstring>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device {
namespace {

using Device = NvmlFunctions::Device;
using Result = NvmlFunctions::Result;

constexpr unsigned kMostLinks = 36;        // NVML_NVLINK_MAX_LINKS
constexpr unsigned kMostGpus = 4096;       // more is no answer
constexpr unsigned kMostProcesses = 4096;  // asked for

/// What the call says, where there is the function and it succeeds.
template <typename T, typename Function, typename... Arguments>
std::optional<T> asked(Function* function, Arguments... arguments) {
  if (function == nullptr) return std::nullopt;
  T answer{};
  if (function(arguments..., &answer) != NvmlFunctions::kSuccess) return std::nullopt;
  return answer;
}

std::optional<bool> as_bool(const std::optional<int>& value) {
  return value ? std::optional(*value != 0) : std::nullopt;
}

PciAddress address_of(const NvmlFunctions::Pci& pci) {
  return {.domain = pci.domain, .bus = pci.bus, .device = pci.device};
}

/// Up to the NUL, which a library of another version may have left out.
std::string text_in(const char* characters, std::size_t size) { return {characters, strnlen(characters, size)}; }

std::optional<GpuState::Processes> processes_of(const NvmlFunctions& nvml, Device device) {
  if (nvml.processes == nullptr) return std::nullopt;
  std::vector<NvmlFunctions::Process> found(64);
  auto count = static_cast<unsigned>(found.size());
  Result result = nvml.processes(device, &count, found.data());
  constexpr Result kTooFew = 7;  // NVML_ERROR_INSUFFICIENT_SIZE
  if (result == kTooFew) {
    found.resize(std::min(count + 64, kMostProcesses));
    count = static_cast<unsigned>(found.size());
    result = nvml.processes(device, &count, found.data());
  }
  if (result != NvmlFunctions::kSuccess || count > found.size()) return std::nullopt;
  GpuState::Processes processes{.count = count};
  for (unsigned i = 0; i < count; ++i) {
    if (found[i].used_bytes == ~0ull) return std::nullopt;  // whose memory it is cannot be told then
    processes.bytes += found[i].used_bytes;
  }
  return processes;
}

std::optional<unsigned> retired_pages_of(const NvmlFunctions& nvml, Device device) {
  if (nvml.retired_pages == nullptr) return std::nullopt;
  unsigned sum = 0;
  for (const int cause : {0, 1}) {  // single bits again and again; two bits at once
    unsigned count = 0;
    constexpr Result kTooFew = 7;
    const Result result = nvml.retired_pages(device, cause, &count, nullptr);
    if (result != NvmlFunctions::kSuccess && result != kTooFew) return std::nullopt;
    sum += count;
  }
  return sum;
}

std::optional<GpuState::RemappedRows> remapped_rows_of(const NvmlFunctions& nvml, Device device) {
  unsigned corrected = 0, uncorrected = 0, pending = 0, failed = 0;
  if (nvml.remapped_rows == nullptr ||
      nvml.remapped_rows(device, &corrected, &uncorrected, &pending, &failed) != NvmlFunctions::kSuccess) {
    return std::nullopt;
  }
  return GpuState::RemappedRows{corrected, uncorrected, pending != 0, failed != 0};
}

std::optional<GpuState::Memory> memory_of(const NvmlFunctions& nvml, Device device) {
  NvmlFunctions::Memory memory{};
  memory.version = NvmlFunctions::kMemoryVersion;
  if (nvml.memory == nullptr || nvml.memory(device, &memory) != NvmlFunctions::kSuccess) return std::nullopt;
  return GpuState::Memory{memory.total, memory.reserved, memory.free, memory.used};
}

std::optional<GpuState::Pcie> pcie_of(const NvmlFunctions& nvml, Device device) {
  const auto generation = asked<unsigned>(nvml.pcie_generation, device);
  const auto width = asked<unsigned>(nvml.pcie_width, device);
  const auto most_generation = asked<unsigned>(nvml.most_pcie_generation, device);
  const auto most_width = asked<unsigned>(nvml.most_pcie_width, device);
  if (!generation || !width || !most_generation || !most_width) return std::nullopt;
  return GpuState::Pcie{*generation, *width, *most_generation, *most_width};
}

std::vector<GpuState::Link> links_of(const NvmlFunctions& nvml, Device device) {
  std::vector<GpuState::Link> links;
  for (unsigned i = 0; i < kMostLinks; ++i) {
    const auto is_active = asked<int>(nvml.link_state, device, i);
    if (!is_active) break;  // the GPU has no more
    GpuState::Link link;
    link.is_active = *is_active != 0;
    NvmlFunctions::Field speed{};
    speed.field = NvmlFunctions::kFieldLinkSpeed;
    speed.scope = i;
    if (link.is_active && nvml.fields != nullptr && nvml.fields(device, 1, &speed) == NvmlFunctions::kSuccess &&
        speed.result == NvmlFunctions::kSuccess) {
      link.bytes_per_second = 1e6 * speed.value.as_unsigned;
    }
    if (const auto remote = asked<NvmlFunctions::Pci>(nvml.link_remote, device, i)) link.remote = address_of(*remote);
    link.recoveries =
        asked<unsigned long long>(nvml.link_errors, device, i, NvmlFunctions::kLinkRecoveries).value_or(0);
    links.push_back(link);
  }
  return links;
}

Error cannot_start(std::string what, std::string fix) {
  return Error(
      {.kind = ErrorKind::device, .where = "libnvidia-ml.so.1", .what = std::move(what), .fix = std::move(fix)});
}

}  // namespace

std::string text_of(PciAddress address) {
  char out[32];
  std::snprintf(out, sizeof out, "%04x:%02x:%02x", address.domain, address.bus, address.device);
  return out;
}

Nvml::Nvml(const NvmlFunctions& functions) : functions_(functions) {
  const Result result = functions_.init();
  if (result == NvmlFunctions::kSuccess) return;
  const char* const words = functions_.error_string == nullptr ? nullptr : functions_.error_string(result);
  const std::string what = text(words == nullptr ? "it does not start" : words, " (", result, ")");
  if (result == NvmlFunctions::kVersionMismatch) {
    throw cannot_start(
        text(what, ": the driver's library is of another version than the kernel module"),
        "the driver was updated while it was loaded: reboot, or unload the nvidia modules and load them");
  }
  if (result == NvmlFunctions::kDriverNotLoaded) throw cannot_start(what, "load it: modprobe nvidia");
  throw cannot_start(what, "see what nvidia-smi says, and dmesg | grep -i nvrm");
}

Nvml::~Nvml() { functions_.shutdown(); }

std::string Nvml::driver_version() const {
  char version[80] = {};
  if (functions_.driver_version == nullptr ||
      functions_.driver_version(version, sizeof version) != NvmlFunctions::kSuccess) {
    return {};
  }
  return text_in(version, sizeof version);
}

GpuState Nvml::state_of(Device device) const {
  const NvmlFunctions& nvml = functions_;
  GpuState state;
  if (const auto pci = asked<NvmlFunctions::Pci>(nvml.pci, device)) state.address = address_of(*pci);
  char name[96] = {};
  if (nvml.name != nullptr && nvml.name(device, name, sizeof name) == NvmlFunctions::kSuccess) {
    state.name = text_in(name, sizeof name);
  }
  state.memory = memory_of(nvml, device);
  state.processes = processes_of(nvml, device);
  int current = 0, pending = 0;
  if (nvml.ecc_mode != nullptr && nvml.ecc_mode(device, &current, &pending) == NvmlFunctions::kSuccess) {
    state.ecc_enabled = current != 0;
  }
  state.uncorrected_errors =
      asked<unsigned long long>(nvml.ecc_errors, device, NvmlFunctions::kUncorrectedErrors, NvmlFunctions::kSinceStart);
  state.retired_pages = retired_pages_of(nvml, device);
  state.retirement_pending = as_bool(asked<int>(nvml.retirement_pending, device));
  state.remapped_rows = remapped_rows_of(nvml, device);
  state.slowdown_reasons = asked<unsigned long long>(nvml.slowdown_reasons, device);
  state.sm_clock_mhz = asked<unsigned>(nvml.clock, device, NvmlFunctions::kSmClock);
  state.most_sm_clock_mhz = asked<unsigned>(nvml.most_clock, device, NvmlFunctions::kSmClock);
  state.temperature = asked<unsigned>(nvml.temperature, device, 0);
  if (const auto rates = asked<NvmlFunctions::Utilization>(nvml.utilization, device)) state.utilization = rates->gpu;
  state.power_limit_mw = asked<unsigned>(nvml.power_limit, device);
  state.default_power_limit_mw = asked<unsigned>(nvml.default_power_limit, device);
  state.pcie = pcie_of(nvml, device);
  if (const auto mode = asked<int>(nvml.compute_mode, device); mode && *mode >= 0 && *mode <= 3) {
    state.compute_mode = static_cast<GpuState::ComputeMode>(*mode);
  }
  unsigned mig = 0, mig_pending = 0;
  if (nvml.mig_mode != nullptr && nvml.mig_mode(device, &mig, &mig_pending) == NvmlFunctions::kSuccess) {
    state.is_divided = mig != 0;
  }
  state.links = links_of(nvml, device);
  return state;
}

std::vector<GpuState> Nvml::gpus() const {
  std::vector<GpuState> states;
  std::vector<Device> devices;
  const unsigned count = std::min(asked<unsigned>(functions_.count).value_or(0), kMostGpus);
  for (unsigned i = 0; i < count; ++i) {
    Device device = nullptr;
    const Result result = functions_.by_index(i, &device);
    if (result == NvmlFunctions::kSuccess) {
      devices.push_back(device);
      states.push_back(state_of(device));
      continue;
    }
    const char* const words = functions_.error_string == nullptr ? nullptr : functions_.error_string(result);
    GpuState state;
    state.name = text("NVML's GPU ", i);
    state.lost = words == nullptr ? text("error ", result) : words;
    devices.push_back(nullptr);
    states.push_back(state);
  }
  for (std::size_t a = 0; a < devices.size(); ++a) {
    for (std::size_t b = 0; b < devices.size(); ++b) {
      if (a == b || devices[a] == nullptr || devices[b] == nullptr) continue;
      const auto status = asked<int>(functions_.peer_status, devices[a], devices[b], NvmlFunctions::kByNvlink);
      if (status && *status == 0) states[a].nvlink_peers.push_back(states[b].address);
    }
  }
  return states;
}

NvmlFunctions open_nvml() {
  // Where drivers put it that the loader does not always look at: containers, WSL.
  constexpr const char* kPlaces[] = {"libnvidia-ml.so.1", "/usr/local/nvidia/lib64/libnvidia-ml.so.1",
                                     "/usr/lib/x86_64-linux-gnu/libnvidia-ml.so.1", "/usr/lib64/libnvidia-ml.so.1",
                                     "/usr/lib/wsl/lib/libnvidia-ml.so.1"};
  void* library = nullptr;  // stays open until the program ends
  for (const char* place : kPlaces) {
    if (library == nullptr) library = dlopen(place, RTLD_NOW | RTLD_LOCAL);
  }
  if (library == nullptr) {
    throw cannot_start("not found: it is a part of NVIDIA's driver",
                       "install the driver; in a container, start it with its GPUs (docker run --gpus all)");
  }
  const auto find = [&](auto*& function, std::initializer_list<const char*> symbols) {
    for (const char* symbol : symbols) {
      if (function == nullptr) {
        function = reinterpret_cast<std::remove_reference_t<decltype(function)>>(dlsym(library, symbol));
      }
    }
  };
  NvmlFunctions out;
  find(out.init, {"nvmlInit_v2"});
  find(out.shutdown, {"nvmlShutdown"});
  find(out.error_string, {"nvmlErrorString"});
  find(out.driver_version, {"nvmlSystemGetDriverVersion"});
  find(out.count, {"nvmlDeviceGetCount_v2"});
  find(out.by_index, {"nvmlDeviceGetHandleByIndex_v2"});
  find(out.name, {"nvmlDeviceGetName"});
  find(out.pci, {"nvmlDeviceGetPciInfo_v3"});
  find(out.memory, {"nvmlDeviceGetMemoryInfo_v2"});
  find(out.processes, {"nvmlDeviceGetComputeRunningProcesses_v3"});
  find(out.ecc_mode, {"nvmlDeviceGetEccMode"});
  find(out.ecc_errors, {"nvmlDeviceGetTotalEccErrors"});
  find(out.retired_pages, {"nvmlDeviceGetRetiredPages"});
  find(out.retirement_pending, {"nvmlDeviceGetRetiredPagesPendingStatus"});
  find(out.remapped_rows, {"nvmlDeviceGetRemappedRows"});
  find(out.slowdown_reasons, {"nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons"});
  find(out.clock, {"nvmlDeviceGetClockInfo"});
  find(out.most_clock, {"nvmlDeviceGetMaxClockInfo"});
  find(out.temperature, {"nvmlDeviceGetTemperature"});
  find(out.utilization, {"nvmlDeviceGetUtilizationRates"});
  find(out.power_limit, {"nvmlDeviceGetEnforcedPowerLimit"});
  find(out.default_power_limit, {"nvmlDeviceGetPowerManagementDefaultLimit"});
  find(out.pcie_generation, {"nvmlDeviceGetCurrPcieLinkGeneration"});
  find(out.most_pcie_generation, {"nvmlDeviceGetMaxPcieLinkGeneration"});
  find(out.pcie_width, {"nvmlDeviceGetCurrPcieLinkWidth"});
  find(out.most_pcie_width, {"nvmlDeviceGetMaxPcieLinkWidth"});
  find(out.compute_mode, {"nvmlDeviceGetComputeMode"});
  find(out.mig_mode, {"nvmlDeviceGetMigMode"});
  find(out.link_state, {"nvmlDeviceGetNvLinkState"});
  find(out.link_remote, {"nvmlDeviceGetNvLinkRemotePciInfo_v2"});
  find(out.link_errors, {"nvmlDeviceGetNvLinkErrorCounter"});
  find(out.fields, {"nvmlDeviceGetFieldValues"});
  find(out.peer_status, {"nvmlDeviceGetP2PStatus"});
  if (out.init == nullptr || out.shutdown == nullptr || out.count == nullptr || out.by_index == nullptr) {
    throw cannot_start("is older than we can ask: it has no nvmlInit_v2", "install a newer driver");
  }
  return out;
}

}  // namespace layerprobe::device
