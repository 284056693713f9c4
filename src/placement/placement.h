#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "placement/device.h"

namespace layerprobe::placement {

/// A module that runs, in the order of the forward pass: model.embed_tokens, model.layers.i, model.norm, lm_head.
struct Module {
  std::string name;
  bool is_layer = false;
  std::uint64_t weights_bytes = 0;  // on a device, in the run's dtype
  double compute_seconds = 0;       // of all the run's tokens, on one device
  double capture_seconds = 0;       // its captures' way to the host, of all tokens
  double bring_seconds = 0;         // its weights' way from the host to a device, once
  double read_seconds = 0;          // its weights' way from the disk, once; the disk is one for all devices
  double experts_share = 0;         // of what is brought and read, the experts'
};

/// A device and what of it may be taken.
struct DeviceBudget {
  Device device;
  std::uint64_t limit = 0;     // everything layerprobe takes there
  std::uint64_t reserved = 0;  // of it, for all but weights: context, workspace, activations, rings

  std::uint64_t weights_limit() const { return limit > reserved ? limit - reserved : 0; }
};

/// What a run is, as far as its placement depends on it.
struct Work {
  std::vector<Module> modules;
  std::int64_t num_micro_batches = 1;
  double output_seconds = 0;   // all captures' way to the output's disk
  double chosen_experts = 1;   // of a layer's experts, the share that is read where its weights do not stay
  bool one_at_a_time = false;  // `single`: a device has one layer's weights at a time
};

/// Of a module's weights that do not stay, the share that is brought and read.
double streamed_share(const Work& work, const Module& module);

/// Where a module's weights live. What is not resident is brought in, once a wave of micro-batches.
enum class Home { resident, host, disk };
/// "resident", "host", "disk"
std::string_view name_of(Home home);

struct Placed {
  std::size_t device = 0;  // into Placement::devices; it computes the module
  Home home = Home::resident;

  bool operator==(const Placed&) const = default;
};

/// Where every module of a run computes, and where its weights live.
struct Placement {
  std::vector<DeviceBudget> devices;          // of the first replica
  std::vector<std::vector<Device>> replicas;  // of each, the devices that stand for `devices`
  std::vector<Placed> modules;                // one for each of Work::modules
  std::vector<std::int64_t> weights_limits;   // of each device: what there is for weights that stay
  std::vector<std::int64_t> weights_budgets;  // of each device: what the strategy gave it to fill
  std::int64_t num_waves = 0;                 // times that weights are brought in; 0: all are resident

  bool streams() const { return num_waves > 0; }
};

/// What a device holds at once, and what is brought to it.
struct DeviceLoad {
  std::uint64_t resident_bytes = 0;
  std::uint64_t streamed_bytes = 0;
  std::uint64_t largest_streamed_bytes = 0;
  double compute_seconds = 0, capture_seconds = 0, bring_seconds = 0;
  std::size_t num_modules = 0;

  /// One module computes while the next one comes.
  std::uint64_t stream_buffer_bytes() const { return 2 * largest_streamed_bytes; }
  std::uint64_t weights_bytes() const { return resident_bytes + stream_buffer_bytes(); }
};
std::vector<DeviceLoad> device_loads(const Work& work, const Placement& placement);

/// How long a run would take, and what keeps it from being faster.
struct Prediction {
  double load_seconds = 0;  // all weights that are not read while the run goes on
  double seconds = 0;       // after that
  double placed_seconds =
      0;                  // both, without writing captures to the disk, which no placement changes: the smallest wins
  std::string binds;      // "compute on cuda:1", "writing captures to the disk", ...
  double idle_share = 0;  // of the slowest device's time, where that binds: the pipeline fills and drains
};
/// Micro-batches of all replicas come from one queue. Resident: each moves on by itself. Streaming: waves do, and a
/// device's time for a wave is that of computing it or of bringing its weights, whichever is longer. Formulas: the cost
/// model in docs/placement.md.
Prediction predict(const Work& work, const Placement& placement);

}  // namespace layerprobe::placement
