#pragma once

#include <cstddef>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace layerprobe::placement {

/// Unbroken ranges of modules, one a stage: stage s has [ends[s - 1], ends[s]), which may be empty.
struct Cuts {
  std::vector<std::size_t> ends;
  double slowest_seconds = 0;
};

/// What the modules [begin, end) take on a stage's device; infinity where they do not fit there. Never less for a
/// longer range, 0 for an empty one.
using RangeSeconds = std::function<double(std::size_t stage, std::size_t begin, std::size_t end)>;

/// The cuts whose slowest stage is as fast as any cuts' can be, and, among those, stages as even in `work` (of each
/// module) as the slowest one allows. Nothing when no cuts fit. Source of the idea: whether a limit can be met is seen
/// by giving each stage in turn all it can take, so the best limit is found by halving; a dynamic program over prefix
/// sums finds the same in the square of the number of modules.
std::optional<Cuts> cut_evenly(std::span<const double> work, std::size_t num_stages, const RangeSeconds& seconds);

}  // namespace layerprobe::placement
