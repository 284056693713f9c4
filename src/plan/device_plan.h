#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/prompts.h"
#include "model/config.h"
#include "placement/budgets.h"
#include "placement/place.h"
#include "plan/footprints.h"
#include "plan/plan.h"
#include "weights/checkpoint.h"

namespace layerprobe::plan {

/// Where a run is to be placed, and how.
struct DeviceRequest {
  std::string device_map = "auto";  // as typed
  std::string max_memory = {};      // as typed
  std::int64_t num_replicas = 0;    // 0: as many as pay
  placement::Machine machine = {};
  unsigned num_cores = 1;
  bool multiplies_fp8 = false;     // --fp8-math w8a8
  std::uint64_t output_bytes = 0;  // of the file; 0: nothing is written
  bool model_in_memory = false;    // on a tmpfs
  bool output_in_memory = false;
};

/// Where each module of a run goes, what every device holds, and how long it should take.
struct DevicePlan {
  struct DeviceRow {
    std::string name;
    std::uint64_t limit_bytes = 0;           // all that may be taken there
    std::uint64_t weights_limit_bytes = 0;   // what is left of it for weights
    std::uint64_t weights_budget_bytes = 0;  // what the strategy gave it to fill with weights
    std::uint64_t weights_bytes = 0;         // resident
    std::uint64_t stream_bytes = 0;          // room for layers that come and go
    Reserve reserve;
    std::uint64_t free_bytes = 0;
    std::string modules;   // resident: "embed_tokens, 0-15"
    std::string streamed;  // "16-31"
    double compute_seconds = 0;
  };
  std::vector<DeviceRow> devices;                  // of the first replica
  std::vector<std::vector<std::string>> replicas;  // the devices of each
  std::vector<std::string> modules;                // that run, in their order
  std::vector<placement::Placed> placed;           // of each
  std::vector<std::string> cuts;                   // why the device changes where it does
  std::int64_t num_waves = 0;                      // times that streamed weights are brought in
  std::uint64_t host_limit_bytes = 0;              // of host memory for weights that wait there
  std::uint64_t streamed_host_bytes = 0;           // weights that wait in the host's memory
  std::uint64_t streamed_disk_bytes = 0;           // weights that are read from the checkpoint for each wave
  std::int64_t tokens_per_batch = 0;
  std::int64_t num_micro_batches = 0;
  Rates rates;
  std::uint64_t load_bytes = 0;  // of the checkpoint, before the first token
  double load_seconds = 0;
  double run_seconds = 0;
  double tokens_per_second = 0;
  std::string binds;
  double idle_share = 0;
  std::int64_t smallest_number_of_devices = 0;  // like the first, that would hold all weights; 0: none would
};

/// Plans over headers alone: no device is opened. Of `plan`'s tokens_per_batch 0 the plan chooses: the micro-batch that
/// is predicted to be fastest. Throws Error(usage) or Error(resource) as placement/place.h and placement/budgets.h say.
DevicePlan plan_devices(const model::ModelConfig& config, const weights::Checkpoint& checkpoint, const Plan& plan,
                        const Prompts& prompts, const DeviceRequest& request);

}  // namespace layerprobe::plan
