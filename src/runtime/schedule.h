#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "base/prompts.h"
#include "capture/recorder.h"
#include "plan/plan.h"

namespace layerprobe::runtime {

/// A batch and where it starts: at one of the plan's layers by its place in plan.layers, or from the very beginning.
struct Task {
  capture::Batch batch;
  std::size_t first_layer = 0;  // index into plan.layers
  bool from_capture = false;    // hidden states come from the captured output of the layer before
};

/// Is this point complete for this prompt, from an earlier run?
using IsComplete = std::function<bool(std::size_t point, std::int64_t prompt)>;

/// Packs neighbouring prompts into batches of at most plan.tokens_per_batch tokens (a longer prompt is a batch of its
/// own). Prompts whose points are all complete are left out; one with some complete starts behind its last layer whose
/// output was captured with all its tokens and before which nothing is missing.
std::vector<Task> schedule(const plan::Plan& plan, const Prompts& prompts, const IsComplete& is_complete);

}  // namespace layerprobe::runtime
