#include "placement/placement.h"

#include <algorithm>

#include "base/text.h"

namespace layerprobe::placement {
namespace {

/// Keeps the longest of what takes its time side by side.
struct Longest {
  double seconds = 0;
  std::string what = "nothing";

  void see(double taken, const std::string& name) {
    if (taken <= seconds) return;
    seconds = taken;
    what = name;
  }
};

/// How many times the stages change hands, and one.
std::int64_t num_stages(const Placement& placement) {
  std::int64_t stages = 0;
  for (std::size_t i = 0; i < placement.modules.size(); ++i) {
    if (i == 0 || placement.modules[i].device != placement.modules[i - 1].device) ++stages;
  }
  return std::max<std::int64_t>(stages, 1);
}

}  // namespace

std::string_view name_of(Home home) {
  switch (home) {
    case Home::resident:
      return "resident";
    case Home::host:
      return "host";
    case Home::disk:
      return "disk";
  }
  return "?";
}

double streamed_share(const Work& work, const Module& module) {
  return 1 - module.experts_share * (1 - work.chosen_experts);
}

std::vector<DeviceLoad> device_loads(const Work& work, const Placement& placement) {
  std::vector<DeviceLoad> loads(placement.devices.size());
  for (std::size_t i = 0; i < work.modules.size(); ++i) {
    const Module& module = work.modules[i];
    DeviceLoad& load = loads[placement.modules[i].device];
    ++load.num_modules;
    load.compute_seconds += module.compute_seconds;
    load.capture_seconds += module.capture_seconds;
    if (placement.modules[i].home != Home::resident) {
      load.streamed_bytes += module.weights_bytes;
      load.largest_streamed_bytes = std::max(load.largest_streamed_bytes, module.weights_bytes);
      load.bring_seconds += module.bring_seconds * streamed_share(work, module);
    } else if (work.one_at_a_time && module.is_layer) {
      load.resident_bytes = std::max(load.resident_bytes, module.weights_bytes);
    } else {
      load.resident_bytes += module.weights_bytes;
    }
  }
  return loads;
}

Prediction predict(const Work& work, const Placement& placement) {
  const auto replicas = static_cast<std::int64_t>(placement.replicas.size());
  const std::int64_t num_micro_batches = std::max<std::int64_t>(work.num_micro_batches, 1);
  const auto steps = static_cast<double>(placement.streams() ? placement.num_waves : num_micro_batches);
  const auto turns =
      static_cast<double>(placement.streams() ? placement.num_waves : (num_micro_batches + replicas - 1) / replicas);
  Longest step;
  const std::vector<DeviceLoad> loads = device_loads(work, placement);
  for (std::size_t i = 0; i < loads.size(); ++i) {
    const std::string name = name_of(placement.devices[i].device);
    step.see(loads[i].compute_seconds / steps, text("compute on ", name));
    step.see(loads[i].capture_seconds / steps, text("captures on their way from ", name, " to the host"));
    step.see(loads[i].bring_seconds, text("weights on their way to ", name));
  }
  double load_seconds = 0, read_seconds = 0;
  for (std::size_t i = 0; i < work.modules.size(); ++i) {
    const Module& module = work.modules[i];
    const Home home = placement.modules[i].home;
    const bool stays = home == Home::resident && !work.one_at_a_time;
    const double seconds = module.read_seconds * (stays ? 1 : streamed_share(work, module));
    (home == Home::disk ? read_seconds : load_seconds) += seconds;
  }
  const double filling = static_cast<double>(num_stages(placement)) - 1;  // `single` has none: nothing is handed on
  const double idle_steps = work.one_at_a_time ? 0 : filling;
  Longest all;
  all.see((turns + idle_steps) * step.seconds, step.what);
  all.see(turns * read_seconds, "reading weights from the disk");
  const double placed_seconds = load_seconds + all.seconds;
  const double pipeline_seconds = (turns + idle_steps) * step.seconds;
  all.see(work.output_seconds, "writing captures to the disk");
  return {.load_seconds = load_seconds,
          .seconds = all.seconds,
          .placed_seconds = placed_seconds,
          .binds = all.what,
          .idle_share = all.seconds > pipeline_seconds ? 0 : idle_steps / (turns + idle_steps)};
}

}  // namespace layerprobe::placement
