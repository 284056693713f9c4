#include "placement/stages.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

namespace layerprobe::placement {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The largest end for which the stage takes at most `limit` (and fits).
std::size_t reach(const RangeSeconds& seconds, std::size_t stage, std::size_t begin, std::size_t count, double limit) {
  std::size_t low = begin, high = count;
  while (low < high) {
    const std::size_t middle = low + (high - low + 1) / 2;
    const double taken = seconds(stage, begin, middle);
    if (taken <= limit && taken < kInfinity) {
      low = middle;
    } else {
      high = middle - 1;
    }
  }
  return low;
}

/// Each stage takes all it can under `limit`; nothing when modules are left over.
std::optional<Cuts> first_come(const RangeSeconds& seconds, std::size_t num_stages, std::size_t count, double limit) {
  Cuts cuts;
  std::size_t begin = 0;
  for (std::size_t stage = 0; stage < num_stages; ++stage) {
    const std::size_t end = reach(seconds, stage, begin, count, limit);
    cuts.slowest_seconds = std::max(cuts.slowest_seconds, seconds(stage, begin, end));
    cuts.ends.push_back(end);
    begin = end;
  }
  if (begin != count) return std::nullopt;
  return cuts;
}

/// The smallest begin for which the stage, up to `end`, takes at most `limit`.
std::size_t reach_back(const RangeSeconds& seconds, std::size_t stage, std::size_t end, double limit) {
  std::size_t low = 0, high = end;
  while (low < high) {
    const std::size_t middle = low + (high - low) / 2;
    if (seconds(stage, middle, end) <= limit) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

/// Moves the ends apart as far as the slowest stage allows, each near an even share of what is left.
void even_out(Cuts& cuts, std::span<const double> work, const RangeSeconds& seconds) {
  const std::size_t num_stages = cuts.ends.size();
  std::vector<double> done(work.size() + 1, 0.0);
  std::partial_sum(work.begin(), work.end(), done.begin() + 1);
  std::vector<std::size_t> earliest(num_stages, work.size());  // where the stages behind can still take all the rest
  for (std::size_t stage = num_stages; stage-- > 1;) {
    earliest[stage - 1] = reach_back(seconds, stage, earliest[stage], cuts.slowest_seconds);
  }
  std::size_t begin = 0;
  for (std::size_t stage = 0; stage + 1 < num_stages; ++stage) {
    const std::size_t latest = reach(seconds, stage, begin, work.size(), cuts.slowest_seconds);
    const double target = done[begin] + (done.back() - done[begin]) / static_cast<double>(num_stages - stage);
    const auto above = std::lower_bound(done.begin() + static_cast<std::ptrdiff_t>(begin), done.end(), target);
    auto end = static_cast<std::size_t>(above - done.begin());
    if (end > begin && target - done[end - 1] < done[end] - target) --end;
    end = std::clamp(end, std::max(begin, earliest[stage]), latest);
    cuts.ends[stage] = end;
    begin = end;
  }
}

}  // namespace

std::optional<Cuts> cut_evenly(std::span<const double> work, std::size_t num_stages, const RangeSeconds& seconds) {
  std::optional<Cuts> best = first_come(seconds, num_stages, work.size(), kInfinity);
  if (!best) return std::nullopt;
  double low = 0;
  while (best->slowest_seconds - low > best->slowest_seconds * 1e-9) {
    const double middle = low + (best->slowest_seconds - low) / 2;
    if (std::optional<Cuts> better = first_come(seconds, num_stages, work.size(), middle)) {
      best = std::move(better);
    } else {
      low = middle;
    }
  }
  even_out(*best, work, seconds);
  return best;
}

}  // namespace layerprobe::placement
