#include "runtime/stages.h"

#include <algorithm>
#include <set>

#include "base/error.h"

namespace layerprobe::runtime {
namespace {

std::vector<Wave> waves_of(std::size_t num_tasks, std::size_t num_waves) {
  std::vector<Wave> waves;
  for (std::size_t i = 0; i < num_waves; ++i) {
    const Wave wave{i * num_tasks / num_waves, (i + 1) * num_tasks / num_waves};
    if (wave.size() > 0) waves.push_back(wave);
  }
  return waves;
}

}  // namespace

std::size_t Stages::largest_wave() const {
  std::size_t largest = 1;
  for (const Wave& wave : waves) largest = std::max(largest, wave.size());
  return largest;
}

std::size_t Stages::entry_of(const Task& task) const {
  if (!task.from_capture) return 0;
  const std::size_t before = !modules.empty() && modules.front().kind == RunModule::Kind::embedding ? 1 : 0;
  return before + task.first_layer;
}

Stages stages_of(const plan::Plan& plan, const plan::DevicePlan& devices, std::size_t num_tasks,
                 std::size_t most_tasks) {
  using Kind = RunModule::Kind;
  Stages out;
  if (plan.runs_embedding) out.modules.push_back({.kind = Kind::embedding});
  for (const std::int64_t layer : plan.layers) out.modules.push_back({.kind = Kind::layer, .layer = layer});
  if (plan.runs_norm) out.modules.push_back({.kind = Kind::norm});
  if (plan.runs_lm_head) out.modules.push_back({.kind = Kind::head});
  expect(out.modules.size() == devices.placed.size(), "a module that runs is placed");

  std::set<std::size_t> seen;
  for (std::size_t i = 0; i < out.modules.size(); ++i) {
    const placement::Placed& placed = devices.placed[i];
    out.modules[i].home = placed.home;
    out.streams = out.streams || placed.home != placement::Home::resident;
    if (out.stages.empty() || out.stages.back().device != placed.device) {
      out.comes_back = out.comes_back || !seen.insert(placed.device).second;
      out.stages.push_back({.device = placed.device, .begin = i, .end = i});
    }
    out.stages.back().end = i + 1;
  }
  out.layers_apart = plan.test_type == plan::TestType::single;
  if (out.layers_apart) {
    out.waves = waves_of(num_tasks, devices.replicas.size());
  } else if (out.streams) {
    const std::size_t least = (num_tasks + most_tasks - 1) / std::max<std::size_t>(most_tasks, 1);
    out.waves = waves_of(num_tasks, std::max(least, static_cast<std::size_t>(devices.num_waves)));
  } else {
    out.waves = waves_of(num_tasks, num_tasks);
  }
  return out;
}

}  // namespace layerprobe::runtime
