#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "placement/placement.h"
#include "plan/device_plan.h"
#include "plan/plan.h"
#include "runtime/schedule.h"

namespace layerprobe::runtime {

/// A module that runs: model.embed_tokens, a layer, model.norm or lm_head.
struct RunModule {
  enum class Kind { embedding, layer, norm, head };
  Kind kind;
  std::int64_t layer = -1;  // its number in the model
  placement::Home home = placement::Home::resident;
};

/// An unbroken range of modules on one device. A device may have several.
struct Stage {
  std::size_t device;      // into DevicePlan::devices
  std::size_t begin, end;  // into the modules
};

/// Tasks that pass a stage together, module by module: [begin, end). One alone where all weights are resident.
struct Wave {
  std::size_t begin, end;

  std::size_t size() const { return end - begin; }
};

/// How a run goes through its devices; the same in every replica.
struct Stages {
  std::vector<RunModule> modules;
  std::vector<Stage> stages;
  std::vector<Wave> waves;

  /// Each layer is fed by itself (`single`): nothing is handed on, and every stage has waves[its replica].
  bool layers_apart = false;
  bool streams = false;
  /// Some device has several stages.
  bool comes_back = false;

  std::size_t largest_wave() const;
  /// Where a task enters; the number of modules for one that has nothing left to do.
  std::size_t entry_of(const Task& task) const;
};

/// `waves` are as even as their number allows, with `most_tasks` (at least 1) in each.
Stages stages_of(const plan::Plan& plan, const plan::DevicePlan& devices, std::size_t num_tasks,
                 std::size_t most_tasks);

}  // namespace layerprobe::runtime
