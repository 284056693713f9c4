#include "check/gpus.h"

#include <algorithm>
#include <utility>

#include "base/bytes.h"
#include "base/text.h"

namespace layerprobe::check {
namespace {

using device::GpuState;
using Slowdown = GpuState::Slowdown;

constexpr std::uint64_t kLeastFreeBytes = std::uint64_t{512} << 20;  // device/cuda/context.cpp refuses less
constexpr std::uint64_t kFewBytes = std::uint64_t{1} << 30;          // that others may hold without a word
constexpr std::uint64_t kOwnerlessBytes = std::uint64_t{256} << 20;  // the driver itself keeps less
constexpr unsigned kMostRetiredPages = 60;  // NVIDIA's limit: "Dynamic Page Retirement", RMA policy thresholds
constexpr double kLeastClock = 0.6;         // of the highest, under load: at its power limit an H100 keeps 0.67 to 0.76

/// As nvidia-smi -i takes it.
std::string smi_id(const GpuState& state) { return text_of(state.address) + ".0"; }

Item judge_device(const Gpu& gpu) {
  const int capability = gpu.info.capability;
  Item item{.name = gpu.name(),
            .measured = text(gpu.info.model, ", compute capability ", capability / 10, ".", capability % 10)};
  if (!gpu.info.is_supported) {
    item.status = Status::fail;
    item.expected = "8.0 (A100) or later";
    item.advice = "leave it out (--device-map cuda:N, CUDA_VISIBLE_DEVICES), or use --device-map cpu";
  }
  if (!gpu.state) return item;
  using Mode = GpuState::ComputeMode;
  const Mode mode = gpu.state->compute_mode.value_or(Mode::shared);
  if (mode == Mode::prohibited || (mode != Mode::shared && gpu.state->processes && gpu.state->processes->count > 0)) {
    item.status = Status::fail;
    item.measured += mode == Mode::prohibited ? ", compute mode prohibited" : ", compute mode exclusive, and in use";
    item.expected = "compute mode default";
    item.advice = text("nvidia-smi -i ", smi_id(*gpu.state), " -c DEFAULT, as root");
  }
  if (gpu.state->is_divided.value_or(false)) item.measured += ", divided (MIG)";
  return item;
}

Item judge_memory(const Gpu& gpu) {
  const GpuState::Memory& memory = *gpu.state->memory;
  Item item{.name = text(gpu.name(), " memory"),
            .measured = text(bytes_text(memory.free), " free of ", bytes_text(memory.total))};
  const std::size_t count = gpu.state->processes ? gpu.state->processes->count : 0;
  if (memory.used > kFewBytes) {
    item.measured += count == 0   ? text(", ", bytes_text(memory.used), " held by others")
                     : count == 1 ? text(", ", bytes_text(memory.used), " held by a process")
                                  : text(", ", bytes_text(memory.used), " held by ", count, " processes");
    item.status = Status::warn;
    item.expected = text(bytes_text(kFewBytes), " or less in use");
    item.advice = text(
        "nvidia-smi shows who holds it: wait for them, choose another GPU with --device-map, or give "
        "--max-memory ",
        memory.free / 1'000'000, "MB or less, so that what does not fit streams");
  }
  if (memory.free < kLeastFreeBytes) {
    item.status = Status::fail;
    item.expected = text(bytes_text(kLeastFreeBytes), " free at least");
    item.advice = "nvidia-smi shows who holds it: wait for them, or choose another GPU with --device-map";
  }
  return item;
}

/// Memory that is in use, and no process says that it is its.
Item judge_owners(const Gpu& gpu) {
  const std::uint64_t owned = gpu.state->processes->bytes;
  const std::uint64_t used = gpu.state->memory->used;
  const std::uint64_t ownerless = used - std::min(used, owned);
  Item item{.name = text(gpu.name(), " memory of no process"), .measured = bytes_text(ownerless)};
  if (ownerless <= kOwnerlessBytes) return item;
  item.status = Status::warn;
  item.expected = text(bytes_text(kOwnerlessBytes), " or less");
  item.advice = text(
      "another container's process, or one that ended badly (fuser -v /dev/nvidia* outside the "
      "container shows it); where there is none, nvidia-smi --gpu-reset -i ",
      smi_id(*gpu.state), " gives it back");
  return item;
}

Item judge_memory_errors(const Gpu& gpu) {
  const GpuState& state = *gpu.state;
  Item item{.name = text(gpu.name(), " ECC"), .measured = state.ecc_enabled.value_or(true) ? "on" : "off"};
  const auto find = [&](Status status, std::string what, std::string expected, std::string advice) {
    item.measured += text(", ", what);
    if (status <= item.status) return;
    item.status = status;
    item.expected = std::move(expected);
    item.advice = std::move(advice);
  };
  const std::string reset = text("end what runs there, then nvidia-smi --gpu-reset -i ", smi_id(state), ", or reboot");
  const GpuState::RemappedRows rows = state.remapped_rows.value_or(GpuState::RemappedRows{});
  if (rows.has_failed) {
    find(Status::fail, "rows of its memory are bad and could not be replaced", "none",
         "do not use this GPU (--device-map); have it replaced");
  }
  if (rows.is_pending || state.retirement_pending.value_or(false)) {
    find(Status::fail, "bad memory waits for a reset to be replaced", "none", reset);
  }
  if (state.uncorrected_errors.value_or(0) > 0) {
    find(Status::warn, text(*state.uncorrected_errors, " uncorrectable errors since the driver was loaded"), "none",
         text(reset, "; if they come again, have the GPU looked at"));
  }
  const unsigned pages = state.retired_pages.value_or(0);
  if (pages >= kMostRetiredPages) {
    find(Status::fail, text(pages, " pages retired"), text("fewer than ", kMostRetiredPages),
         "do not use this GPU (--device-map); have it replaced");
  } else if (pages > 0) {
    find(Status::warn, text(pages, " pages retired"), "none",
         "watch it: every retired page was an error of the memory");
  }
  if (rows.corrected + rows.uncorrected > 0) {
    find(Status::pass, text(rows.corrected + rows.uncorrected, " rows replaced"), {}, {});
  }
  if (!state.ecc_enabled.value_or(true)) {
    find(Status::warn, "errors of its memory go unseen", "on",
         text("nvidia-smi -i ", smi_id(state), " -e 1, as root, and reboot"));
  }
  return item;
}

std::size_t active_links(const GpuState& state) {
  return static_cast<std::size_t>(std::ranges::count_if(state.links, &GpuState::Link::is_active));
}

Item judge_nvlink(const Gpu& gpu, std::size_t most_active) {
  const GpuState& state = *gpu.state;
  const std::size_t active = active_links(state);
  std::uint64_t recoveries = 0;
  for (const GpuState::Link& link : state.links) recoveries += link.recoveries;
  Item item{.name = text(gpu.name(), " NVLink"),
            .measured = active == 0 ? "no link is in use" : text(active, " of ", state.links.size(), " links active")};
  if (recoveries > 0) {
    item.measured += text(", ", recoveries, " recoveries from errors");
    item.status = Status::warn;
    item.expected = "none";
    item.advice = text("nvidia-smi nvlink -e -i ", smi_id(state), " names the link; watch it, reseat or replace it");
  }
  const std::size_t due = std::max(most_active, active == 0 ? 0 : state.links.size());
  if (active < due) {
    item.status = Status::warn;
    item.expected = text(due, " active");
    item.advice = text("nvidia-smi nvlink -s -i ", smi_id(state),
                       " shows which are down; check the fabric manager (systemctl status nvidia-fabricmanager), "
                       "bridges and dmesg");
  }
  return item;
}

/// Bytes a second each way of a PCIe lane, after its encoding, of generation 1 on.
double lane_rate(unsigned generation) {
  constexpr double kRates[] = {0, 0.25e9, 0.5e9, 0.985e9, 1.969e9, 3.938e9, 7.563e9};
  return generation < std::size(kRates) ? kRates[generation] : kRates[std::size(kRates) - 1];
}

}  // namespace

std::vector<Gpu> join(const std::vector<device::DeviceInfo>& gpus, const std::vector<GpuState>& states) {
  std::vector<Gpu> out;
  for (const device::DeviceInfo& info : gpus) {
    out.push_back({.info = info, .state = {}});
    const auto same = [&](const GpuState& state) { return state.lost.empty() && state.address == info.address; };
    const auto found = std::ranges::find_if(states, same);
    if (found != states.end()) out.back().state = *found;
  }
  return out;
}

Items judge_idle(const std::vector<Gpu>& gpus, const std::vector<GpuState>& states) {
  Items items;
  for (const GpuState& state : states) {
    if (state.lost.empty()) continue;
    items.push_back({.name = state.name,
                     .status = Status::fail,
                     .measured = state.lost,
                     .expected = "a GPU that answers",
                     .advice = "see dmesg | grep -i xid; reset it or reboot"});
  }
  std::size_t most_active = 0;
  for (const Gpu& gpu : gpus) {
    if (gpu.state) most_active = std::max(most_active, active_links(*gpu.state));
  }
  for (const Gpu& gpu : gpus) {
    items.push_back(judge_device(gpu));
    if (!gpu.state) continue;
    if (gpu.state->memory) items.push_back(judge_memory(gpu));
    if (gpu.state->memory && gpu.state->processes) items.push_back(judge_owners(gpu));
    if (gpu.state->ecc_enabled || gpu.state->remapped_rows || gpu.state->retired_pages) {
      items.push_back(judge_memory_errors(gpu));
    }
    if (!gpu.state->links.empty()) items.push_back(judge_nvlink(gpu, most_active));
  }
  return items;
}

Item judge_pcie(const std::string& gpu, const GpuState::Pcie& pcie, bool is_busy) {
  Item item{.name = text(gpu, " PCIe"), .measured = text("generation ", pcie.generation, ", x", pcie.width)};
  if (pcie.width == 0 || pcie.most_width == 0) {  // a virtual machine that hides it
    item.status = Status::skip;
    item.measured = "not told here";
    return item;
  }
  const bool is_slow = is_busy && pcie.generation < pcie.most_generation;
  if (pcie.width >= pcie.most_width && !is_slow) return item;
  item.status = Status::warn;
  item.expected = text("generation ", pcie.most_generation, ", x", pcie.most_width);
  item.advice =
      "reseat the GPU or its riser, see that its slot has all lanes (BIOS: bifurcation, link speed); copies "
      "to and from it are slower meanwhile";
  return item;
}

Item judge_clocks(const std::string& gpu, const GpuState& state, bool is_busy) {
  Item item{.name = text(gpu, " clocks")};
  std::vector<std::string> measured;
  if (state.sm_clock_mhz && state.most_sm_clock_mhz) {
    measured.push_back(text(*state.sm_clock_mhz, " of ", *state.most_sm_clock_mhz, " MHz"));
  }
  if (state.temperature) measured.push_back(text(*state.temperature, " C"));
  const std::uint64_t reasons = state.slowdown_reasons.value_or(0);
  const auto find = [&](std::string what, std::string expected, std::string advice) {
    measured.push_back(std::move(what));
    if (item.status != Status::pass) return;
    item.status = Status::warn;
    item.expected = std::move(expected);
    item.advice = std::move(advice);
  };
  if ((reasons & (Slowdown::kThermal | Slowdown::kHardwareThermal)) != 0) {
    find("slowed down: too hot", "not slowed down",
         "check fans, dust and the room's air; other GPUs wait for this one");
  } else if ((reasons & Slowdown::kPowerBrake) != 0) {
    find("slowed down: the power supply asks for it", "not slowed down",
         "check power supplies and cables, and the machine's power limit");
  } else if ((reasons & Slowdown::kHardware) != 0) {
    find("slowed down by its hardware: too hot, or too little power", "not slowed down",
         "check cooling, power supplies and cables (nvidia-smi -q -d PERFORMANCE)");
  }
  if (state.power_limit_mw && state.default_power_limit_mw) {
    const unsigned limit = *state.power_limit_mw / 1000, usual = *state.default_power_limit_mw / 1000;
    if (limit < usual) {
      find(text("limited to ", limit, " W"), text(usual, " W"),
           text("nvidia-smi -i ", smi_id(state), " -pl ", usual, ", as root, unless it is meant so"));
    }
  }
  const bool has_clocks = state.sm_clock_mhz && state.most_sm_clock_mhz;
  if (is_busy && has_clocks && item.status == Status::pass &&
      *state.sm_clock_mhz < kLeastClock * *state.most_sm_clock_mhz) {
    const bool is_set = (reasons & Slowdown::kClocksSet) != 0;
    find(is_set ? "clocks are set lower" : "low under load", text(100 * kLeastClock, "% of the highest at least"),
         is_set ? text("nvidia-smi -i ", smi_id(state), " -rac and -rgc, as root, unless it is meant so")
                : std::string("see nvidia-smi -q -d PERFORMANCE"));
  }
  item.measured = measured.empty() ? "not told here" : layerprobe::join(measured, ", ");
  if (measured.empty()) item.status = Status::skip;
  return item;
}

Way way_to_host(const Gpu& gpu) {
  if (!gpu.state || !gpu.state->pcie) return {};
  const GpuState::Pcie& pcie = *gpu.state->pcie;
  return {.bytes_per_second = lane_rate(pcie.most_generation) * pcie.most_width};
}

Way way_between(const Gpu& from, const Gpu& to) {
  if (!from.state || !to.state) return {};
  const GpuState& state = *from.state;
  if (std::ranges::find(state.nvlink_peers, to.state->address) == state.nvlink_peers.end()) {
    return {.bytes_per_second = std::min(way_to_host(from).bytes_per_second, way_to_host(to).bytes_per_second)};
  }
  double straight = 0, all = 0;  // links that end at the peer, where there is no switch between
  for (const GpuState::Link& link : state.links) {
    if (!link.is_active) continue;
    all += link.bytes_per_second;
    if (link.remote == to.state->address) straight += link.bytes_per_second;
  }
  return {.bytes_per_second = straight > 0 ? straight : all, .is_nvlink = true};
}

}  // namespace layerprobe::check
