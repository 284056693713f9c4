#include "placement/even.h"

#include <algorithm>
#include <limits>
#include <numeric>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "placement/stages.h"

namespace layerprobe::placement {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kAlike = 0.999;  // predictions that are closer are no reason for another stage

/// Sums and maxima over ranges of modules, so that a range is looked at in constant time.
class Ranges {
 public:
  explicit Ranges(const Work& work) : one_at_a_time_(work.one_at_a_time) {
    for (const Module& module : work.modules) {
      const Sums& last = sums_.back();
      const bool is_max = one_at_a_time_ && module.is_layer;
      sums_.push_back({.weights = last.weights + (is_max ? 0 : module.weights_bytes),
                       .compute = last.compute + module.compute_seconds,
                       .capture = last.capture + module.capture_seconds,
                       .bring = last.bring + module.bring_seconds * streamed_share(work, module),
                       .layers = last.layers + (module.is_layer ? 1 : 0),
                       .layer_weights = last.layer_weights + (module.is_layer ? module.weights_bytes : 0)});
      if (module.is_layer) largest_layer_ = std::max(largest_layer_, module.weights_bytes);
      largest_ = std::max(largest_, module.weights_bytes);
    }
  }

  /// On a device at once; of layers that run one at a time, room for the largest of all.
  std::uint64_t weights(std::size_t begin, std::size_t end) const {
    const std::uint64_t sum = sums_[end].weights - sums_[begin].weights;
    return one_at_a_time_ && sums_[end].layers > sums_[begin].layers ? sum + largest_layer_ : sum;
  }
  std::uint64_t layer_weights(std::size_t begin, std::size_t end) const {
    return sums_[end].layer_weights - sums_[begin].layer_weights;
  }
  double compute(std::size_t begin, std::size_t end) const { return sums_[end].compute - sums_[begin].compute; }
  double capture(std::size_t begin, std::size_t end) const { return sums_[end].capture - sums_[begin].capture; }
  double bring(std::size_t begin, std::size_t end) const { return sums_[end].bring - sums_[begin].bring; }
  std::uint64_t largest_layer() const { return largest_layer_; }
  std::uint64_t largest() const { return largest_; }

 private:
  struct Sums {
    std::uint64_t weights = 0;
    double compute = 0, capture = 0, bring = 0;
    std::size_t layers = 0;
    std::uint64_t layer_weights = 0;
  };
  bool one_at_a_time_;
  std::vector<Sums> sums_ = {Sums{}};
  std::uint64_t largest_layer_ = 0, largest_ = 0;
};

std::vector<double> work_of(const Work& work) {
  std::vector<double> seconds;
  for (const Module& module : work.modules) seconds.push_back(module.compute_seconds);
  return seconds;
}

void assign(const Cuts& cuts, Placement& placement) {
  std::size_t begin = 0;
  for (std::size_t stage = 0; stage < cuts.ends.size(); ++stage) {
    for (; begin < cuts.ends[stage]; ++begin) placement.modules[begin].device = stage;
  }
}

/// The first `num_stages` devices, each standing for those that do its part in the other replicas.
Placement with_replicas(const Request& request, std::size_t num_stages, std::size_t num_replicas) {
  Placement out;
  out.devices.assign(request.devices.begin(), request.devices.begin() + static_cast<std::ptrdiff_t>(num_stages));
  for (std::size_t replica = 0; replica < num_replicas; ++replica) {
    out.replicas.emplace_back();
    for (std::size_t stage = 0; stage < num_stages; ++stage) {
      const DeviceBudget& budget = request.devices[replica * num_stages + stage];
      out.replicas.back().push_back(budget.device);
      if (budget.weights_limit() < out.devices[stage].weights_limit()) {
        out.devices[stage].limit = budget.limit;
        out.devices[stage].reserved = budget.reserved;
      }
    }
  }
  for (const DeviceBudget& device : out.devices) {
    out.weights_limits.push_back(static_cast<std::int64_t>(device.weights_limit()));
  }
  out.weights_budgets = out.weights_limits;
  out.modules.resize(request.work.modules.size());
  return out;
}

std::optional<Placement> resident(const Request& request, const Ranges& ranges, std::size_t num_stages,
                                  std::size_t num_replicas) {
  Placement placement = with_replicas(request, num_stages, num_replicas);
  const std::optional<Cuts> cuts =
      cut_evenly(work_of(request.work), num_stages, [&](std::size_t stage, std::size_t begin, std::size_t end) {
        if (ranges.weights(begin, end) > placement.devices[stage].weights_limit()) return kInfinity;
        return std::max(ranges.compute(begin, end), ranges.capture(begin, end));
      });
  if (!cuts) return std::nullopt;
  assign(*cuts, placement);
  return placement;
}

/// Marks modules of [begin, end) so that at most `limit` bytes stay resident, spread evenly: while those that stay
/// compute, the others come.
void choose_streamed(const Work& work, Placement& placement, std::size_t begin, std::size_t end, std::uint64_t limit,
                     bool layers_only) {
  std::uint64_t total = 0, streamable = 0;
  const auto can_stream = [&](std::size_t i) { return work.modules[i].is_layer || !layers_only; };
  for (std::size_t i = begin; i < end; ++i) {
    total += work.modules[i].weights_bytes;
    if (can_stream(i)) streamable += work.modules[i].weights_bytes;
  }
  const double rate =
      streamable == 0 || total <= limit ? 0 : static_cast<double>(total - limit) / static_cast<double>(streamable);
  double due = 0, streamed = 0;
  for (std::size_t i = begin; i < end; ++i) {
    if (!can_stream(i)) continue;
    const auto bytes = static_cast<double>(work.modules[i].weights_bytes);
    due += std::min(rate, 1.0) * bytes;
    if (streamed >= due) continue;
    streamed += bytes;
    placement.modules[i].home = Home::disk;
  }
}

/// Weights that are read more than once wait in the host's memory, as many as it holds.
void choose_homes(const Request& request, Placement& placement) {
  std::uint64_t left = placement.num_waves > 1 ? request.host_limit : 0;
  for (std::size_t i = 0; i < placement.modules.size(); ++i) {
    const std::uint64_t bytes = request.work.modules[i].weights_bytes;
    if (placement.modules[i].home == Home::resident || bytes > left) continue;
    left -= bytes;
    placement.modules[i].home = Home::host;
  }
}

std::vector<std::int64_t> wave_counts(const Work& work) {
  std::vector<std::int64_t> counts;
  for (std::int64_t waves = 1; waves < work.num_micro_batches; waves *= 2) counts.push_back(waves);
  counts.push_back(std::max<std::int64_t>(work.num_micro_batches, 1));
  return counts;
}

/// One pipeline over all devices, in that many waves; nothing when a device has no room for two layers.
std::optional<Placement> streamed(const Request& request, const Ranges& ranges, std::int64_t num_waves,
                                  bool layers_only) {
  Placement placement = with_replicas(request, request.devices.size(), 1);
  placement.num_waves = num_waves;
  const std::uint64_t buffers = 2 * (layers_only ? ranges.largest_layer() : ranges.largest());
  const auto waves = static_cast<double>(num_waves);
  const auto seconds = [&](std::size_t stage, std::size_t begin, std::size_t end) {
    const std::uint64_t limit = placement.devices[stage].weights_limit();
    const std::uint64_t weights = ranges.weights(begin, end);
    const double compute = std::max(ranges.compute(begin, end), ranges.capture(begin, end)) / waves;
    if (weights <= limit) return compute;
    const std::uint64_t streamable = layers_only ? ranges.layer_weights(begin, end) : weights;
    if (buffers > limit || weights - streamable > limit - buffers) return kInfinity;
    const auto share = static_cast<double>(weights - (limit - buffers)) / static_cast<double>(weights);
    return std::max(compute, ranges.bring(begin, end) * share);
  };
  const std::optional<Cuts> cuts = cut_evenly(work_of(request.work), placement.devices.size(), seconds);
  if (!cuts) return std::nullopt;
  assign(*cuts, placement);
  for (std::size_t stage = 0, begin = 0; stage < cuts->ends.size(); begin = cuts->ends[stage++]) {
    const std::size_t end = cuts->ends[stage];
    const std::uint64_t limit = placement.devices[stage].weights_limit();
    if (ranges.weights(begin, end) <= limit) continue;
    choose_streamed(request.work, placement, begin, end, limit - buffers, layers_only);
  }
  choose_homes(request, placement);
  return placement;
}

Error no_room(const Request& request, const Ranges& ranges) {
  const auto roomiest = std::ranges::max_element(request.devices, {}, &DeviceBudget::weights_limit);
  const auto largest = std::ranges::max_element(request.work.modules, {}, &Module::weights_bytes);
  std::uint64_t others = 0;
  for (const Module& module : request.work.modules) {
    if (!module.is_layer) others += module.weights_bytes;
  }
  std::uint64_t need = std::min(2 * ranges.largest(), 2 * ranges.largest_layer() + others);
  std::string what = text("needs ", bytes_text(need), " on a device, for itself and the next one to come");
  if (request.work.one_at_a_time) {
    need = ranges.weights(0, request.work.modules.size());
    what = text("needs ", bytes_text(need), " on a device");
  }
  return Error({.kind = ErrorKind::resource,
                .where = largest->name,
                .what = text(what, ", beside ", bytes_text(roomiest->reserved),
                             " for activations, workspace and captures; the largest budget is ",
                             bytes_text(roomiest->limit), " (", name_of(roomiest->device), ")"),
                .fix = text("raise --max-memory to ", (need + roomiest->reserved + 999'999) / 1'000'000,
                            "MB, the smallest that works, or lower --tokens-per-batch")});
}

}  // namespace

Placement place_evenly(const Request& request) {
  const Ranges ranges(request.work);
  const std::size_t num_devices = request.devices.size();
  const auto wanted = static_cast<std::size_t>(std::max<std::int64_t>(request.num_replicas, 0));
  std::optional<Placement> best;
  double best_seconds = kInfinity;
  for (std::size_t num_stages = 1; num_stages <= num_devices; ++num_stages) {
    const auto useful = static_cast<std::size_t>(std::max<std::int64_t>(request.work.num_micro_batches, 1));
    const std::size_t num_replicas = wanted > 0 ? wanted : std::min(num_devices / num_stages, useful);
    if (num_replicas * num_stages > num_devices) break;
    std::optional<Placement> placement = resident(request, ranges, num_stages, num_replicas);
    if (!placement) continue;
    const double seconds = predict(request.work, *placement).placed_seconds;
    if (best && seconds >= best_seconds * kAlike) continue;
    best = std::move(placement);
    best_seconds = seconds;
  }
  if (best) return *best;
  if (wanted > 1) {
    throw Error({.kind = ErrorKind::resource,
                 .where = "--replicas",
                 .what = text(wanted, " replicas do not fit ", num_devices, " devices; one has ",
                              bytes_text(ranges.weights(0, request.work.modules.size())), " of weights"),
                 .fix = "leave --replicas out, or raise --max-memory"});
  }
  if (request.work.one_at_a_time) throw no_room(request, ranges);
  for (const bool layers_only : {true, false}) {  // the embedding and the head stay where that is possible
    for (const std::int64_t num_waves : wave_counts(request.work)) {
      std::optional<Placement> placement = streamed(request, ranges, num_waves, layers_only);
      if (!placement) break;
      const double seconds = predict(request.work, *placement).placed_seconds;
      if (best && seconds >= best_seconds * kAlike) continue;
      best = std::move(placement);
      best_seconds = seconds;
    }
    if (best) return *best;
  }
  throw no_room(request, ranges);
}

void deal_streamed(const Request& request, Placement& placement) {
  Work part;  // of the modules that are dealt
  std::vector<std::size_t> indices;
  for (std::size_t i = 0; i < request.work.modules.size(); ++i) {
    if (placement.modules[i].home == Home::resident) continue;
    indices.push_back(i);
    part.modules.push_back(request.work.modules[i]);
  }
  if (indices.empty()) return;
  const Ranges ranges(part);
  std::vector<std::uint64_t> taken(placement.devices.size());
  for (std::size_t i = 0; i < request.work.modules.size(); ++i) {
    if (placement.modules[i].home == Home::resident)
      taken[placement.modules[i].device] += request.work.modules[i].weights_bytes;
  }
  const auto seconds = [&](std::size_t stage, std::size_t begin, std::size_t end) {
    if (begin == end) return 0.0;
    if (taken[stage] + 2 * ranges.largest() > placement.devices[stage].weights_limit()) return kInfinity;
    return std::max(ranges.compute(begin, end), ranges.bring(begin, end));
  };
  const std::optional<Cuts> cuts = cut_evenly(work_of(part), placement.devices.size(), seconds);
  if (!cuts) throw no_room(request, Ranges(request.work));
  for (std::size_t stage = 0, at = 0; stage < cuts->ends.size(); ++stage) {
    for (; at < cuts->ends[stage]; ++at) placement.modules[indices[at]].device = stage;
  }
}

void choose_waves(const Work& work, Placement& placement) {
  const auto is_streamed = [](const Placed& placed) { return placed.home != Home::resident; };
  if (std::ranges::none_of(placement.modules, is_streamed)) return;
  double best_seconds = kInfinity;
  std::int64_t best = 1;
  for (const std::int64_t num_waves : wave_counts(work)) {
    placement.num_waves = num_waves;
    const double seconds = predict(work, placement).placed_seconds;
    if (seconds >= best_seconds * kAlike) continue;
    best = num_waves;
    best_seconds = seconds;
  }
  placement.num_waves = best;
}

}  // namespace layerprobe::placement
