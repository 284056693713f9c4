#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <utility>

#include "base/bytes.h"
#include "base/text.h"
#include "check/devices.h"

namespace layerprobe::check {
namespace {

using Clock = std::chrono::steady_clock;
using device::Tensor;

constexpr std::int64_t kColumns = 1024;
constexpr double kLeastShare = 0.6;  // of what the way could carry; H100s of generation 5 reach 0.86

std::string rate_text(double rate) { return text(bytes_text(static_cast<std::uint64_t>(rate)), "/s"); }

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Memory on both sides of a device's way to the host.
class Copier {
 public:
  Copier(device::Ops& ops, std::size_t bytes)
      : ops_(ops),
        there_(ops.allocate_shared(bytes)),
        here_(ops.allocate_on_host(bytes)),
        back_(ops.allocate_on_host(bytes)) {
    auto* const words = static_cast<std::uint32_t*>(here_.data());
    for (std::size_t i = 0; i < bytes / 4; ++i) words[i] = static_cast<std::uint32_t>(i) * 2654435761u;
    std::memset(back_.data(), 0, bytes);
  }

  bool is_intact() {
    start_to_device(1);
    wait();
    start_to_host(1);
    wait();
    return std::memcmp(here_.data(), back_.data(), here_.bytes()) == 0;
  }

  void start_to_device(int count) {
    for (int i = 0; i < count; ++i) arrived_ = ops_.start_copy_from_host(tensor(), here_.data(), nullptr);
  }
  void start_to_host(int count) {
    for (int i = 0; i < count; ++i) ops_.start_copy_to_host(back_.data(), tensor());
    on_host_ = ops_.mark();
  }
  void wait() {
    if (arrived_) arrived_->wait();
    if (on_host_) on_host_->wait();
    arrived_.reset();
    on_host_.reset();
  }

 private:
  Tensor tensor() const {
    return Tensor::contiguous(there_.data(), Dtype::f32, static_cast<std::int64_t>(there_.bytes()) / 4 / kColumns,
                              kColumns);
  }

  device::Ops& ops_;
  device::Buffer there_, here_, back_;
  std::unique_ptr<device::Moment> arrived_;
  std::unique_ptr<device::Mark> on_host_;
};

}  // namespace

CopyTrials try_copies(const Bench& bench, const Effort& effort) {
  CopyTrials out;
  out.devices.resize(bench.devices.size());
  std::vector<std::unique_ptr<Copier>> copiers(bench.devices.size());
  const auto on_each = [&](const auto& act) {
    for (std::size_t i = 0; i < copiers.size(); ++i) {
      if (out.devices[i].failure) continue;
      try {
        act(i);
      } catch (const Error& error) {
        out.devices[i].failure = error;
      }
    }
  };
  const double bytes = static_cast<double>(effort.copy_bytes) * effort.num_copies;
  on_each([&](std::size_t i) {
    CopyTrial& trial = out.devices[i];
    trial.device = bench.devices[i]->name();
    copiers[i] = std::make_unique<Copier>(*bench.devices[i], effort.copy_bytes);
    trial.is_intact = copiers[i]->is_intact();
    auto start = Clock::now();
    copiers[i]->start_to_device(effort.num_copies);
    copiers[i]->wait();
    trial.to_device = bytes / seconds_since(start);
    start = Clock::now();
    copiers[i]->start_to_host(effort.num_copies);
    copiers[i]->wait();
    trial.to_host = bytes / seconds_since(start);
  });
  const double all = bytes * static_cast<double>(std::ranges::count_if(
                                 out.devices, [](const CopyTrial& trial) { return !trial.failure.has_value(); }));
  on_each([&](std::size_t i) { copiers[i]->start_to_device(effort.num_copies); });
  bench.meanwhile();
  on_each([&](std::size_t i) { copiers[i]->wait(); });
  auto start = Clock::now();
  on_each([&](std::size_t i) { copiers[i]->start_to_device(effort.num_copies); });
  on_each([&](std::size_t i) { copiers[i]->wait(); });
  out.all_to_device = all / seconds_since(start);
  start = Clock::now();
  on_each([&](std::size_t i) { copiers[i]->start_to_host(effort.num_copies); });
  on_each([&](std::size_t i) { copiers[i]->wait(); });
  out.all_to_host = all / seconds_since(start);
  return out;
}

Items judge_copies(const CopyTrials& trials, const std::vector<Gpu>& gpus) {
  Items items;
  for (const CopyTrial& trial : trials.devices) {
    Item item{.name = text(trial.device, " copies")};
    if (trial.failure) {
      items.push_back(failed(item.name, *trial.failure));
      continue;
    }
    item.measured = text(rate_text(trial.to_device), " from the host, ", rate_text(trial.to_host), " back");
    const auto gpu = std::ranges::find(gpus, trial.device, &Gpu::name);
    const double could = gpu == gpus.end() ? 0 : way_to_host(*gpu).bytes_per_second;
    if (!trial.is_intact) {
      item.status = Status::fail;
      item.measured = "what was copied there and back is damaged";
      item.expected = "the same bytes";
      item.advice = "do not use this device (--device-map); see dmesg for errors of PCIe and of the host's memory";
    } else if (could > 0 && std::min(trial.to_device, trial.to_host) < kLeastShare * could) {
      item.status = Status::warn;
      item.expected = text(100 * kLeastShare, "% of ", rate_text(could));
      item.advice =
          "end what else copies or computes on the machine and try again; else see PCIe (nvidia-smi -q -d "
          "PCIE), and that the job's cores are of the GPU's socket (nvidia-smi topo -m)";
    }
    items.push_back(std::move(item));
  }
  if (trials.devices.size() > 1 && trials.all_to_device > 0) {
    items.push_back({.name = "copies of all at once",
                     .measured = text(rate_text(trials.all_to_device), " from the host, ",
                                      rate_text(trials.all_to_host), " back")});
  }
  return items;
}

}  // namespace layerprobe::check
