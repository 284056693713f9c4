#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "check/gpus.h"
#include "check/item.h"
#include "device/backends.h"
#include "device/ops.h"

namespace layerprobe::check {

/// How much of everything is tried.
struct Effort {
  std::int64_t num_tokens = 128;  // of a product, with as many features in as out
  std::int64_t features = 1024;
  double product_seconds = 0;  // of products on all devices at once; 0: they are not timed
  std::size_t copy_bytes = std::size_t{64} << 20;
  int num_copies = 8;
  std::size_t proof_bytes = std::size_t{1} << 20;  // of a pattern from a device to another
};

/// Devices that are open, and what is called while all of them work: where NVML is asked.
struct Bench {
  std::vector<device::Ops*> devices;
  std::function<void()> meanwhile = [] {};
};

/// A product on a device.
struct ProductTrial {
  std::string device;
  std::optional<Error> failure = {};  // of the device
  std::string wrong = {};             // the first element that is not what the host says; empty: all are
  double flops = 0;                   // a second, while all devices multiply; 0: it was not timed
};
/// Matrices of small integers in bfloat16, whose sums are exact whatever their order; 64 rows of the result are held
/// against plain integer sums.
std::vector<ProductTrial> try_products(const Bench& bench, const Effort& effort);
/// GPUs of one model are as fast as each other.
Items judge_products(const std::vector<ProductTrial>& trials, const std::vector<Gpu>& gpus);

/// A GPU's way to the host's memory and back, which is pinned for it.
struct CopyTrial {
  std::string device;
  std::optional<Error> failure = {};
  bool is_intact = false;
  double to_device = 0, to_host = 0;  // bytes a second, by itself
};
struct CopyTrials {
  std::vector<CopyTrial> devices;
  double all_to_device = 0, all_to_host = 0;  // of all at once, in all
};
CopyTrials try_copies(const Bench& bench, const Effort& effort);
Items judge_copies(const CopyTrials& trials, const std::vector<Gpu>& gpus);

/// A device's way to another.
struct PairTrial {
  std::string from, to;
  std::optional<Error> failure = {};
  bool reaches = false;         // by itself
  bool copies_arrive = false;   // as a run sends hidden states
  bool stores_arrive = false;   // those of a kernel that writes into the other's memory while that one computes
  bool arrives_by_host = true;  // where it cannot reach by itself, or that fails
  double rate = 0;              // bytes a second; 0: through the host
};
std::vector<PairTrial> try_pairs(const Bench& bench, const Effort& effort);
/// Those of one device that are as they should be are one item.
Items judge_pairs(const std::vector<PairTrial>& trials, const std::vector<Gpu>& gpus);

Item judge_all_reduce(const device::AllReduce& sum, std::size_t num_gpus);

}  // namespace layerprobe::check
