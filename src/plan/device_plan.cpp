#include "plan/device_plan.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::plan {
namespace {

/// Tokens of a micro-batch on a GPU, and the share of its rate that they reach (measured: docs/placement.md). Batches
/// of models with experts are plan/footprints.h's batch_factor times as large.
constexpr std::array<std::pair<std::int64_t, double>, 3> kGpuBatches = {{{8192, 1.0}, {4096, 0.98}, {2048, 0.96}}};

/// A placement with all that it follows from.
struct Candidate {
  placement::Work work;
  Reserve reserve;
  placement::Placement placement;
  placement::Prediction prediction;
  std::int64_t tokens_per_batch = 0;
};

/// "embed_tokens, 0-15, 17, norm" of the modules for which `is_listed` says so.
template <typename IsListed>
std::string listed(const std::vector<placement::Module>& modules, IsListed is_listed) {
  std::string out;
  for (std::size_t i = 0; i < modules.size(); ++i) {
    if (!is_listed(i)) continue;
    std::size_t last = i;
    while (modules[i].is_layer && last + 1 < modules.size() && modules[last + 1].is_layer && is_listed(last + 1))
      ++last;
    const auto shown = [&](std::size_t at) { return modules[at].name.substr(modules[at].name.rfind('.') + 1); };
    out += text(out.empty() ? "" : ", ", shown(i), last > i ? text("-", shown(last)) : "");
    i = last;
  }
  return out;
}

class Planner {
 public:
  Planner(const model::ModelConfig& config, const weights::Checkpoint& checkpoint, const Plan& plan,
          const Prompts& prompts, const DeviceRequest& request)
      : config_(config),
        checkpoint_(checkpoint),
        plan_(plan),
        prompts_(prompts),
        request_(request),
        map_(placement::parse_device_map(request.device_map)) {
    if (map_.strategy != placement::DeviceMap::Strategy::even) tree_ = module_tree(config, plan.dtype);
    const placement::MaxMemory max_memory = placement::parse_max_memory(request.max_memory);
    devices_ = placement::device_budgets(map_, max_memory, request.machine);
    host_limit_ = placement::host_budget(map_, max_memory, request.machine);
    is_gpu_ = devices_.front().device.kind == placement::Device::Kind::cuda;
    rates_ = is_gpu_ ? gpu_rates(plan.dtype, devices_.size(), request.model_in_memory, request.output_in_memory,
                                 request.multiplies_fp8)
                     : cpu_rates(plan.dtype, std::max(1u, request.num_cores / static_cast<unsigned>(devices_.size())),
                                 request.model_in_memory, request.output_in_memory);
    work_ = work_of(config, checkpoint, plan, prompts, rates_, is_gpu_);
  }

  DevicePlan plan() { return described(chosen()); }

 private:
  Candidate candidate(std::int64_t tokens_per_batch, double efficiency) const {
    Candidate out;
    out.tokens_per_batch = tokens_per_batch;
    out.work = work_;
    out.work.num_micro_batches = count_micro_batches(prompts_, tokens_per_batch);
    for (placement::Module& module : out.work.modules) module.compute_seconds /= efficiency;
    add_expert_products(out);
    out.work.chosen_experts = chosen_experts(tokens_per_batch);
    out.work.output_seconds = static_cast<double>(request_.output_bytes) / rates_.disk_write_bytes;
    out.reserve = reserve_of(config_, plan_, prompts_, tokens_per_batch, is_gpu_, devices_.size());
    try {
      out.placement = placement::place(request_for(out));
    } catch (const Error& error) {  // it is to name a limit with which all fits that streaming takes
      if (error.kind() != ErrorKind::resource) throw;
      const std::int64_t largest = largest_micro_batch(prompts_, tokens_per_batch);
      out.reserve.states_bytes = wave_states(config_, plan_.dtype, largest, out.work.num_micro_batches, 1).rotations();
      out.placement = placement::place(request_for(out));
    }
    out.prediction = placement::predict(out.work, out.placement);
    return out.placement.streams() ? with_states(out) : out;
  }

  /// Of each layer's experts that some token of a micro-batch can have chosen.
  void add_expert_products(Candidate& candidate) const {
    if (!config_.experts) return;
    constexpr double kProducts = 2;  // gate_up_proj, down_proj
    const std::int64_t choices =
        largest_micro_batch(prompts_, candidate.tokens_per_batch) * config_.experts->num_experts_per_tok;
    const double seconds = kProducts * static_cast<double>(std::min(choices, config_.experts->num_experts)) *
                           static_cast<double>(candidate.work.num_micro_batches) * rates_.expert_product_seconds;
    std::size_t layer = 0;
    for (placement::Module& module : candidate.work.modules) {
      if (module.is_layer && config_.has_experts(plan_.layers[layer++])) module.compute_seconds += seconds;
    }
  }

  /// As runtime/device_runs.cpp has it: one micro-batch of few tokens reads what they choose, about. They choose at
  /// random here; real ones, which agree more, read less.
  double chosen_experts(std::int64_t tokens_per_batch) const {
    if (!config_.experts || request_.multiplies_fp8 || count_micro_batches(prompts_, tokens_per_batch) > 1) return 1;
    const std::int64_t tokens = prompts_.num_tokens();
    if (tokens * config_.experts->num_experts_per_tok > config_.experts->num_experts) return 1;
    const double share =
        static_cast<double>(config_.experts->num_experts_per_tok) / static_cast<double>(config_.experts->num_experts);
    return 1 - std::pow(1 - share, static_cast<double>(tokens));
  }

  /// With room for what waits while layers come and go: on the device where the run is not slower for it, else in the
  /// host's memory.
  Candidate with_states(const Candidate& without) const {
    constexpr double kNotSlower = 1.02;
    const std::int64_t largest = largest_micro_batch(prompts_, without.tokens_per_batch);
    const WaveStates states =
        wave_states(config_, plan_.dtype, largest, without.work.num_micro_batches, without.placement.num_waves);
    const auto with = [&](std::uint64_t bytes) {
      Candidate out = without;
      out.reserve.states_bytes = bytes;
      out.placement = placement::place(request_for(out));
      out.prediction = placement::predict(out.work, out.placement);
      return out;
    };
    try {
      Candidate all = with(states.total());
      const bool is_slower = all.prediction.placed_seconds > kNotSlower * without.prediction.placed_seconds;
      if (!is_slower) return all;
    } catch (const Error& error) {
      if (error.kind() != ErrorKind::resource) throw;
    }
    return with(states.rotations());
  }

  placement::Request request_for(const Candidate& candidate) const {
    std::vector<placement::DeviceBudget> devices = devices_;
    for (placement::DeviceBudget& device : devices) device.reserved = candidate.reserve.total();
    return {.map = map_,
            .work = candidate.work,
            .tree = tree_,
            .devices = std::move(devices),
            .host_limit = host_limit_,
            .num_replicas = request_.num_replicas};
  }

  Candidate chosen() const {
    if (plan_.tokens_per_batch > 0) return candidate(plan_.tokens_per_batch, 1);
    const std::int64_t factor = batch_factor(config_);
    if (!is_gpu_) return chosen_for_cpu(factor);
    std::optional<Candidate> best;
    for (std::size_t i = 0; i < kGpuBatches.size(); ++i) {
      const auto& [tokens, efficiency] = kGpuBatches[i];
      try {
        Candidate next = candidate(factor * tokens, efficiency);
        if (!best || next.prediction.placed_seconds < best->prediction.placed_seconds) best = std::move(next);
      } catch (const Error& error) {  // a smaller batch may leave the room that is missing
        const bool is_last = i + 1 == kGpuBatches.size();
        if (error.kind() != ErrorKind::resource || (is_last && !best)) throw;
      }
    }
    return *best;
  }

  /// Experts' batches are large: as much of one as there is memory for beside the weights.
  Candidate chosen_for_cpu(std::int64_t factor) const {
    const std::int64_t least = std::min<std::int64_t>(256 * request_.num_cores, 4096);
    for (; factor > 1; factor /= 2) {
      try {
        Candidate next = candidate(factor * least, 1);
        if (!next.placement.streams()) return next;
      } catch (const Error& error) {
        if (error.kind() != ErrorKind::resource) throw;
      }
    }
    return candidate(least, 1);
  }

  DevicePlan described(const Candidate& chosen) const {
    const placement::Placement& placement = chosen.placement;
    const std::vector<placement::Module>& modules = chosen.work.modules;
    DevicePlan out;
    out.rates = rates_;
    out.tokens_per_batch = chosen.tokens_per_batch;
    out.num_micro_batches = chosen.work.num_micro_batches;
    out.num_waves = placement.num_waves;
    out.host_limit_bytes = host_limit_;
    out.placed = placement.modules;
    for (const placement::Module& module : modules) out.modules.push_back(module.name);
    for (const std::vector<placement::Device>& replica : placement.replicas) {
      out.replicas.emplace_back();
      for (const placement::Device device : replica) out.replicas.back().push_back(name_of(device));
    }
    for (const placement::Cut& cut : placement::explain_cuts(request_for(chosen), placement))
      out.cuts.push_back(cut.why);
    add_devices(chosen, out);
    for (std::size_t i = 0; i < modules.size(); ++i) {
      if (placement.modules[i].home == placement::Home::host) out.streamed_host_bytes += modules[i].weights_bytes;
      if (placement.modules[i].home == placement::Home::disk) out.streamed_disk_bytes += modules[i].weights_bytes;
    }
    out.load_seconds = chosen.prediction.load_seconds;
    out.load_bytes = static_cast<std::uint64_t>(out.load_seconds * rates_.disk_read_bytes + 0.5);
    out.run_seconds = chosen.prediction.seconds;
    out.tokens_per_second = static_cast<double>(prompts_.num_tokens()) / std::max(out.run_seconds, 1e-12);
    out.binds = chosen.prediction.binds;
    out.idle_share = chosen.prediction.idle_share;
    placement::DeviceBudget first = devices_.front();
    first.reserved = chosen.reserve.total();
    out.smallest_number_of_devices = placement::smallest_number_of_devices(chosen.work, first);
    return out;
  }

  void add_devices(const Candidate& chosen, DevicePlan& out) const {
    const placement::Placement& placement = chosen.placement;
    const std::vector<placement::DeviceLoad> loads = placement::device_loads(chosen.work, placement);
    for (std::size_t device = 0; device < loads.size(); ++device) {
      const placement::DeviceLoad& load = loads[device];
      const placement::DeviceBudget& budget = placement.devices[device];
      const auto is_here = [&](std::size_t i, bool resident) {
        const placement::Placed& placed = placement.modules[i];
        return placed.device == device && (placed.home == placement::Home::resident) == resident;
      };
      out.devices.push_back(
          {.name = name_of(budget.device),
           .limit_bytes = budget.limit,
           .weights_limit_bytes = static_cast<std::uint64_t>(placement.weights_limits[device]),
           .weights_budget_bytes = static_cast<std::uint64_t>(placement.weights_budgets[device]),
           .weights_bytes = load.resident_bytes,
           .stream_bytes = load.stream_buffer_bytes(),
           .reserve = chosen.reserve,
           .free_bytes = budget.weights_limit() - std::min(budget.weights_limit(), load.weights_bytes()),
           .modules = listed(chosen.work.modules, [&](std::size_t i) { return is_here(i, true); }),
           .streamed = listed(chosen.work.modules, [&](std::size_t i) { return is_here(i, false); }),
           .compute_seconds = load.compute_seconds});
    }
  }

  const model::ModelConfig& config_;
  const weights::Checkpoint& checkpoint_;
  const Plan& plan_;
  const Prompts& prompts_;
  const DeviceRequest& request_;
  const placement::DeviceMap map_;
  placement::TreeModule tree_;  // empty for auto, which looks at what runs alone
  std::vector<placement::DeviceBudget> devices_;
  std::uint64_t host_limit_ = 0;
  bool is_gpu_ = false;
  Rates rates_;
  placement::Work work_;
};

}  // namespace

DevicePlan plan_devices(const model::ModelConfig& config, const weights::Checkpoint& checkpoint, const Plan& plan,
                        const Prompts& prompts, const DeviceRequest& request) {
  return Planner(config, checkpoint, plan, prompts, request).plan();
}

}  // namespace layerprobe::plan
