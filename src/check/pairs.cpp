#include <algorithm>
#include <chrono>
#include <memory>
#include <numeric>
#include <utility>

#include "base/bytes.h"
#include "base/text.h"
#include "check/devices.h"
#include "runtime/link.h"

namespace layerprobe::check {
namespace {

using device::Ops;
using device::Tensor;

constexpr std::int64_t kColumns = 1024;
constexpr double kLeastShareOfNvlink = 0.6;  // two H100s reach 0.82 of their 18 links
constexpr double kLeastShareOfPcie = 0.25;   // through a host bridge much is lost

std::string rate_text(double rate) { return text(bytes_text(static_cast<std::uint64_t>(rate)), "/s"); }

Tensor tensor_of(const device::Buffer& buffer) {
  return Tensor::contiguous(buffer.data(), Dtype::f32, static_cast<std::int64_t>(buffer.bytes()) / 4 / kColumns,
                            kColumns);
}

/// As a run proves a link.
bool carries(Ops& from, Ops& to, bool is_peer, std::size_t bytes) {
  runtime::Hub hub;
  runtime::Link link(hub, from, to,
                     {.is_peer = is_peer,
                      .max_tokens = static_cast<std::int64_t>(bytes) / 4 / kColumns,
                      .hidden_size = kColumns,
                      .dtype = Dtype::f32});
  return link.carries();
}

/// A kernel of `from` writes a pattern into memory of `to`, which computes meanwhile and reads it afterwards.
bool stores_arrive(Ops& from, Ops& to, std::size_t bytes) {
  const device::Buffer inbox = to.allocate_shared(bytes), load = to.allocate(bytes), table = from.allocate(bytes);
  const Tensor rows = tensor_of(table);
  std::vector<float> pattern(bytes / 4), found(bytes / 4);
  for (std::size_t i = 0; i < pattern.size(); ++i) pattern[i] = static_cast<float>(i * 2654435761u >> 9 & 0x7fffff);
  std::vector<std::int32_t> reversed(static_cast<std::size_t>(rows.rows));
  std::iota(reversed.rbegin(), reversed.rend(), 0);
  from.copy_from_host(rows, pattern.data());
  to.copy_from_host(tensor_of(inbox), found.data());
  to.copy_from_host(tensor_of(load), found.data());
  from.synchronize();
  to.synchronize();
  constexpr int kAdditions = 64;
  for (int i = 0; i < kAdditions; ++i) to.add({.out = tensor_of(load), .a = tensor_of(load), .b = tensor_of(load)});
  from.embedding({.out = tensor_of(inbox), .weight = rows, .input_ids = reversed});
  from.synchronize();
  to.copy_to_host(found.data(), tensor_of(inbox));
  for (std::int64_t row = 0; row < rows.rows; ++row) {
    const auto there = found.begin() + row * kColumns;
    if (!std::equal(there, there + kColumns, pattern.begin() + (rows.rows - 1 - row) * kColumns)) return false;
  }
  return true;
}

double rate_of(Ops& from, Ops& to, const Effort& effort) {
  const device::Buffer x = from.allocate_shared(effort.copy_bytes), out = to.allocate_shared(effort.copy_bytes);
  const auto send = [&] {
    return from.send({.out = tensor_of(out), .receiver = to, .x = tensor_of(x), .after = nullptr});
  };
  send()->wait();
  const auto start = std::chrono::steady_clock::now();
  std::unique_ptr<device::Moment> arrived;
  for (int i = 0; i < effort.num_copies; ++i) arrived = send();
  arrived->wait();
  const double seconds = std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count();
  return static_cast<double>(effort.copy_bytes) * effort.num_copies / seconds;
}

PairTrial try_pair(Ops& from, Ops& to, const Effort& effort) {
  PairTrial trial{.from = from.name(), .to = to.name()};
  try {
    trial.reaches = from.reaches(to);
    if (trial.reaches) {
      trial.copies_arrive = carries(from, to, /*is_peer=*/true, effort.proof_bytes);
      trial.stores_arrive = stores_arrive(from, to, effort.proof_bytes);
    }
    if (trial.copies_arrive) {
      trial.rate = rate_of(from, to, effort);
    } else {
      trial.arrives_by_host = carries(from, to, /*is_peer=*/false, effort.proof_bytes);
    }
  } catch (const Error& error) {
    trial.failure = error;
  }
  return trial;
}

/// Of what is not as it should be; `item` has its name.
Item judge_pair(const PairTrial& trial, const Way& way, Item item) {
  if (trial.failure) return failed(item.name, *trial.failure);
  if (trial.reaches && !(trial.copies_arrive && trial.stores_arrive)) {
    item.status = Status::fail;
    item.measured = trial.copies_arrive ? "what a kernel writes there arrives damaged" : "peer copies arrive damaged";
    item.expected = "the same bytes";
    item.advice =
        "switch the IOMMU off for it (BIOS, or iommu=pt), and PCIe ACS; else have bridges and slots looked "
        "at. Until then: --transport host, and NCCL_P2P_DISABLE=1 for other programs";
  }
  if (!trial.arrives_by_host) {
    item.status = Status::fail;
    item.measured = trial.reaches ? "damaged, and through the host's memory too" : "damaged through the host's memory";
    item.expected = "the same bytes";
    item.advice = "do not use this pair (--device-map); see dmesg for errors of PCIe and of the host's memory";
  }
  if (item.status == Status::fail) return item;
  if (!trial.reaches) {
    item.measured = "through the host's memory: no way to each other";
    if (!way.is_nvlink) return item;
    item.status = Status::warn;
    item.expected = "NVLink, which NVML shows";
    item.advice = "see nvidia-smi topo -p2p n; in a container, give it all devices of the machine";
    return item;
  }
  item.measured = rate_text(trial.rate);
  const double least = (way.is_nvlink ? kLeastShareOfNvlink : kLeastShareOfPcie) * way.bytes_per_second;
  if (trial.rate >= least) return item;
  item.status = Status::warn;
  item.expected = text(rate_text(least), " of the ", rate_text(way.bytes_per_second), " of ",
                       way.is_nvlink ? "its NVLink" : "its PCIe");
  item.advice = way.is_nvlink ? "see nvidia-smi nvlink -s and -e: links that are down or have errors"
                              : "see nvidia-smi topo -m: GPUs under one PCIe switch copy faster";
  return item;
}

}  // namespace

std::vector<PairTrial> try_pairs(const Bench& bench, const Effort& effort) {
  std::vector<PairTrial> trials;
  for (Ops* const from : bench.devices) {
    for (Ops* const to : bench.devices) {
      if (from != to) trials.push_back(try_pair(*from, *to, effort));
    }
  }
  return trials;
}

Items judge_pairs(const std::vector<PairTrial>& trials, const std::vector<Gpu>& gpus) {
  Items items;
  for (std::size_t begin = 0, end = 0; begin < trials.size(); begin = end) {
    const std::string& from = trials[begin].from;
    double slowest = 0, fastest = 0;
    std::size_t direct = 0, by_host = 0;
    for (end = begin; end < trials.size() && trials[end].from == from; ++end) {
      const PairTrial& trial = trials[end];
      const auto a = std::ranges::find(gpus, from, &Gpu::name), b = std::ranges::find(gpus, trial.to, &Gpu::name);
      const Way way = a == gpus.end() || b == gpus.end() ? Way{} : way_between(*a, *b);
      Item item = judge_pair(trial, way, {.name = text(from, " to ", trial.to)});
      if (item.status != Status::pass) {
        items.push_back(std::move(item));
        continue;
      }
      if (!trial.reaches) ++by_host;
      if (!trial.reaches) continue;
      slowest = direct == 0 ? trial.rate : std::min(slowest, trial.rate);
      fastest = std::max(fastest, trial.rate);
      ++direct;
    }
    if (direct + by_host == 0) continue;
    Item item{.name = text(from, " to others")};
    std::vector<std::string> ways;
    if (direct > 0) {
      ways.push_back(
          text(direct, " arrive straight, ", rate_text(slowest), direct == 1 ? "" : text(" to ", rate_text(fastest))));
    }
    if (by_host > 0) ways.push_back(text(by_host, " through the host's memory"));
    item.measured = layerprobe::join(ways, "; ");
    items.push_back(std::move(item));
  }
  return items;
}

Item judge_all_reduce(const device::AllReduce& sum, std::size_t num_gpus) {
  Item item{.name = "NCCL all-reduce",
            .measured = text(num_gpus, " GPUs, sums right, ", rate_text(sum.bytes_per_second))};
  if (sum.wrong.empty()) return item;
  item.status = Status::fail;
  item.measured = sum.wrong;
  item.expected = "the sum";
  item.advice = "see the pairs of GPUs above; until they are mended, NCCL_P2P_DISABLE=1 for programs that use NCCL";
  return item;
}

}  // namespace layerprobe::check
