#include "runtime/device_runs.h"

#include <algorithm>
#include <chrono>
#include <functional>
#include <string>
#include <thread>
#include <utility>

#include "base/text.h"
#include "plan/footprints.h"
#include "runtime/beating.h"

namespace layerprobe::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// Of the tokens that go through a layer at once.
std::int64_t largest_batch(const Prepared& prepared) {
  return plan::largest_micro_batch(prepared.prompts, prepared.plan.tokens_per_batch);
}

/// A device that comes back to a wave takes all of it before it goes on: that may wait on the host alone.
bool waits_on_host(const Stages& stages) { return stages.streams && stages.comes_back; }

}  // namespace

DeviceRuns::DeviceRuns(Prepared& prepared, const Devices& devices, const plan::DevicePlan& placed,
                       const store::Layout& layout, store::Writer* writer, const RunOptions& options,
                       const Watch& watch)
    : prepared_(prepared),
      devices_(devices),
      placed_(placed),
      layout_(layout),
      writer_(writer),
      options_(options),
      watch_(watch),
      tasks_(schedule(prepared.plan, prepared.prompts,
                      [this](std::size_t point, std::int64_t prompt) {
                        return writer_ != nullptr && writer_->is_complete(point, prompt);
                      })),
      stages_(stages_of(prepared.plan, placed, tasks_.size(), most_tasks_of_wave())),
      gathering_(layout, writer, std::chrono::duration<double>(options.commit_every_seconds)),
      telling_(watch, [this] { return device_states(); }),
      shared_{.prepared = prepared,
              .writer = writer,
              .stages = stages_,
              .tasks = tasks_,
              .telling = telling_,
              .rank = [this](std::int64_t row, const TopK& top) { rank(row, top); }},
      links_(shared_.hub, watch,
             {.transport = options.transport,
              .each = {.capacity = waits_on_host(stages_) ? stages_.largest_wave() + 1 : 0,
                       .max_tokens = largest_batch(prepared),
                       .hidden_size = prepared.config.hidden_size,
                       .dtype = prepared.plan.dtype},
              .waits_on_host = waits_on_host(stages_)}) {}

void DeviceRuns::run(RunReport& report) {
  if (!tasks_.empty()) run_tasks(report);
  gathering_.commit();
  std::ranges::sort(ranked_, {}, [](const RunReport::Ranked& r) { return std::pair(r.prompt, r.token); });
  report.top_k = std::move(ranked_);
  const std::vector<Statistics> statistics = writer_ != nullptr ? writer_->statistics() : gathering_.statistics();
  for (std::size_t i = 0; i < layout_.points.size(); ++i) {
    const store::Layout::Point& point = layout_.points[i];
    report.points.push_back({point.point.name, point.point.width, point.stored, statistics[i]});
  }
}

void DeviceRuns::write_top_k_texts() {
  const tokenizer::Tokenizer* tokenizer = layout_.top_k > 0 ? prepared_.tokenizer_if_any() : nullptr;
  if (tokenizer == nullptr) return;
  std::vector<std::string> texts;
  for (const std::int32_t id : writer_->top_k_ids()) texts.push_back(tokenizer->token_text(id));
  writer_->write_top_k_texts(texts);
}

std::size_t DeviceRuns::state_bytes() const {
  return static_cast<std::size_t>(largest_batch(prepared_) * prepared_.config.hidden_size) *
         size_of(prepared_.plan.dtype);
}

/// As many as have room for their states in half of the host's memory.
std::size_t DeviceRuns::most_tasks_of_wave() const {
  const std::size_t room = placed_.host_limit_bytes / 2 / devices_.size();
  return std::max<std::size_t>(room / state_bytes(), 1);
}

void DeviceRuns::run_tasks(RunReport& report) {
  const Clock::time_point start = Clock::now();
  std::uint64_t tokens_total = 0, load_total = 0;
  for (const Task& task : tasks_) {
    report.computed_tokens += task.batch.num_tokens();
    tokens_total +=
        static_cast<std::uint64_t>(task.batch.num_tokens()) * (prepared_.plan.layers.size() - task.first_layer);
  }
  for (std::size_t replica = 0; replica < placed_.replicas.size(); ++replica) make_replica(replica, report);
  for (const auto& run : runs_) load_total += run->load_bytes();
  telling_.expect(load_total, tokens_total);
  shared_.num_loading = runs_.size();
  const Beating beating(watch_.beat ? [this] { watch_.beat(state()); } : std::function<void()>(), watch_.beat_seconds);

  if (runs_.size() == 1) {
    runs_.front()->run();
  } else {
    std::vector<std::thread> threads;
    try {
      for (const auto& run : runs_) threads.emplace_back([&run] { run->run(); });
    } catch (...) {  // the system has no more; those that run would wait for ever
      shared_.hub.stop(std::current_exception());
    }
    for (std::thread& thread : threads) thread.join();
  }
  shared_.hub.rethrow_failure();

  const double seconds = seconds_since(start);
  report.load_seconds = std::chrono::duration<double>(shared_.all_loaded - start).count();
  if (stages_.layers_apart) {  // which load between running
    for (const auto& run : runs_) report.load_seconds = std::max(report.load_seconds, run->load_seconds());
  }
  report.run_seconds = seconds - report.load_seconds;
  report.num_waves = stages_.streams ? static_cast<std::int64_t>(stages_.waves.size()) : 0;
  for (const auto& run : runs_) {
    report.chosen_experts.num_read += run->chosen_experts().num_read;
    report.chosen_experts.num_all += run->chosen_experts().num_all;
    report.waited_seconds = std::max(report.waited_seconds, run->waited_seconds());
    report.captured_bytes += run->recorded_bytes();
    report.devices.push_back(run->report(report.run_seconds));
  }
}

void DeviceRuns::make_replica(std::size_t replica, RunReport& report) {
  std::vector<std::vector<DeviceRun::StageEnds>> ends(placed_.devices.size());
  const std::size_t num_of_first = runs_.size() / std::max<std::size_t>(replica, 1);
  Link* before = nullptr;
  for (std::size_t i = 0; i < stages_.stages.size(); ++i) {
    const std::size_t at = stages_.stages[i].device;
    Link* after = nullptr;
    if (i + 1 < stages_.stages.size() && !stages_.layers_apart) {
      after = &links_.make(device(replica, at), device(replica, stages_.stages[i + 1].device),
                           report.transfers.emplace_back());
    }
    ends[at].push_back({.stage = i, .in = before, .out = after});
    before = after;
  }
  for (std::size_t i = 0; i < ends.size(); ++i) {
    if (ends[i].empty()) continue;  // it has nothing to do
    const plan::DevicePlan::DeviceRow& row = placed_.devices[i];
    const bool has_both = !row.modules.empty() && !row.streamed.empty();
    DeviceRun* const donor = replica == 0 || stages_.layers_apart ? nullptr : runs_[runs_.size() % num_of_first].get();
    runs_.push_back(std::make_unique<DeviceRun>(
        shared_, device(replica, i), layout_, gathering_,
        DeviceRun::Options{
            .modules =
                text(row.modules, has_both ? "; " : "", row.streamed.empty() ? "" : text("streamed ", row.streamed)),
            .replica = replica,
            .stages = std::move(ends[i]),
            .states_bytes = states_bytes(row),
            .max_tokens = largest_batch(prepared_),
            .ring_bytes = options_.pinned_memory_bytes,
            .donor = donor != nullptr && links_.carries_weights(donor->ops(), device(replica, i)) ? donor : nullptr,
            .brings_chosen = brings_chosen_experts()}));
  }
}

/// A few tokens, one micro-batch of them, choose few of a layer's experts; then it pays to wait until they are known.
/// Not where FP8 is multiplied: whether it is depends on all of a layer's experts.
bool DeviceRuns::brings_chosen_experts() const {
  const auto& experts = prepared_.config.experts;
  return experts && stages_.largest_wave() == 1 && options_.fp8_math == Fp8Math::dequantize &&
         largest_batch(prepared_) * experts->num_experts_per_tok <= experts->num_experts;
}

/// What of the device is left for states of a wave, once everything else has its room.
std::uint64_t DeviceRuns::states_bytes(const plan::DevicePlan::DeviceRow& row) const {
  const std::uint64_t room = row.reserve.states_bytes + row.free_bytes;
  const auto tasks = static_cast<std::int64_t>(stages_.largest_wave());
  const std::uint64_t rotations =
      plan::wave_states(prepared_.config, prepared_.plan.dtype, largest_batch(prepared_), tasks, 1).rotations();
  return room - std::min(room, rotations);
}

std::vector<DeviceState> DeviceRuns::device_states() const {
  std::vector<DeviceState> states;
  for (const auto& run : runs_) states.push_back(run->state());
  return states;
}

RunState DeviceRuns::state() {
  RunState state = telling_.state(prepared_.plan.layers.size());
  for (const auto& run : runs_) state.captured_bytes += run->recorded_bytes();
  return state;
}

void DeviceRuns::rank(std::int64_t row, const TopK& top) {
  if (writer_ != nullptr) writer_->write_top_k(row, top.ids, top.logits);
  const std::lock_guard lock(rank_mutex_);
  const std::vector<std::int64_t>& bounds = layout_.rows.cu_rows;
  RunReport::Ranked ranked;
  ranked.prompt = std::ranges::upper_bound(bounds, row) - bounds.begin() - 1;
  ranked.token = layout_.rows.position[static_cast<std::size_t>(row)];
  ranked.ids = top.ids;
  ranked.logits = top.logits;
  if (const tokenizer::Tokenizer* tokenizer = prepared_.tokenizer_if_any()) {
    for (const std::int32_t id : top.ids) ranked.texts.push_back(tokenizer->token_text(id));
  }
  ranked_.push_back(std::move(ranked));
}

}  // namespace layerprobe::runtime
