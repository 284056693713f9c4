#include "runtime/session.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <condition_variable>
#include <cstdlib>
#include <ctime>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "capture/recorder.h"
#include "device/ops.h"
#include "runtime/device_needs.h"
#include "runtime/device_run.h"
#include "runtime/hub.h"
#include "runtime/link.h"
#include "runtime/prepared.h"
#include "runtime/schedule.h"
#include "runtime/stages.h"
#include "store/format.h"

namespace layerprobe::runtime {
namespace {

using Clock = std::chrono::steady_clock;

double seconds_since(Clock::time_point start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

/// ISO 8601, UTC.
std::string now_text() {
  const std::time_t now = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&now, &parts);
  std::array<char, 32> out{};
  std::strftime(out.data(), out.size(), "%Y-%m-%dT%H:%M:%SZ", &parts);
  return out.data();
}

/// "cuda:0: embed_tokens, 0-15; cuda:1: 16-31, norm" of the first replica.
std::string placement_text(const plan::DevicePlan& devices) {
  std::string out;
  for (const plan::DevicePlan::DeviceRow& row : devices.devices) {
    out += text(out.empty() ? "" : "; ", row.name, ": ", row.modules, row.modules.empty() ? "" : " ",
                row.streamed.empty() ? "" : text("(streamed: ", row.streamed, ")"));
  }
  return out;
}

std::string device_names(const Devices& devices) {
  std::vector<std::string> names;
  for (const auto& device : devices) names.push_back(device->name());
  return join(names, ",");
}

store::Layout make_layout(const Prepared& prepared, const Devices& devices, const plan::DevicePlan& placed,
                          const RunOptions& options, const std::string& matmul_choices) {
  const plan::Plan& plan = prepared.plan;
  store::Layout layout;
  layout.points = plan.points;
  layout.prompts = prepared.prompts;
  layout.rows = plan.rows;
  layout.num_experts = prepared.config.experts ? prepared.config.experts->num_experts : 0;
  layout.top_k = plan.top_k;
  const std::string default_tokens = plan.test_type == plan::TestType::full ? "last" : "all";
  layout.identity = {{"model_hash", prepared.checkpoint.hash()},
                     {"weights_sample_hash", prepared.checkpoint.sample_hash()},
                     {"model_type", prepared.config.model_type},
                     {"test_type", std::string(plan::name_of(plan.test_type))},
                     {"dtype", std::string(name_of(plan.dtype))},
                     {"tokens", options.request.tokens.empty() ? default_tokens : options.request.tokens},
                     {"numerics", std::string(options.fp8_math == Fp8Math::w8a8 ? "w8a8" : "reference")},
                     {"input", prepared.hidden_states ? prepared.hidden_states->identity() : std::string("tokens")},
                     {"code_path", devices.front()->code_path()},
                     {kMatMulChoices, matmul_choices}};
  if (prepared.part) layout.identity.merge(prepared.part->attributes());
  layout.information = {{"model", std::filesystem::absolute(prepared.checkpoint.path()).string()},
                        {"program", std::string("layerprobe ") + LAYERPROBE_VERSION},
                        {"command_line", options.command_line},
                        {"device_map", options.device_map},
                        {"device", device_names(devices)},
                        {"placement", placement_text(placed)},
                        {"replicas", static_cast<std::int64_t>(placed.replicas.size())},
                        {"tokens_per_batch", plan.tokens_per_batch},
                        {"start_time", now_text()}};
  return layout;
}

/// Points a reader at what went wrong first: in the order of the forward pass, then of the prompts and tokens.
std::optional<RunReport::NonFinite> find_non_finite(const std::vector<RunReport::Point>& points, const plan::Plan& plan,
                                                    const Prompts& prompts) {
  for (const RunReport::Point& point : points) {
    const Statistics& all = point.statistics;
    if (all.nan_count + all.inf_count == 0) continue;
    const std::int64_t row = all.first_non_finite_row;
    const std::vector<std::int64_t>& bounds = point.stored ? plan.rows.cu_rows : prompts.cu_seqlens;
    const auto prompt = std::ranges::upper_bound(bounds, row) - bounds.begin() - 1;
    const std::int64_t token = point.stored ? plan.rows.position[static_cast<std::size_t>(row)]
                                            : row - bounds[static_cast<std::size_t>(prompt)];
    return RunReport::NonFinite{
        .point = point.name, .prompt = prompt, .token = token, .nan_count = all.nan_count, .inf_count = all.inf_count};
  }
  return std::nullopt;
}

/// Of the tokens that go through a layer at once.
std::int64_t largest_batch(const Prepared& prepared) {
  return plan::largest_micro_batch(prepared.prompts, prepared.plan.tokens_per_batch);
}

bool is_set(const char* variable) {
  const char* const value = std::getenv(variable);
  return value != nullptr && *value != '\0' && std::string_view(value) != "0";
}

/// Calls `beat` every so often from a thread of its own while it lives, and once more when it ends.
class Beating {
 public:
  Beating(std::function<void()> beat, double seconds) : beat_(std::move(beat)), seconds_(seconds) {
    if (beat_) thread_ = std::thread([this] { run(); });
  }
  ~Beating() {
    if (!beat_) return;
    {
      const std::lock_guard lock(mutex_);
      ends_ = true;
    }
    changed_.notify_one();
    thread_.join();
  }
  Beating(const Beating&) = delete;
  Beating& operator=(const Beating&) = delete;

 private:
  void run() {
    std::unique_lock lock(mutex_);
    for (bool is_last = false; !is_last;) {
      is_last = changed_.wait_for(lock, std::chrono::duration<double>(seconds_), [&] { return ends_; });
      try {
        beat_();
      } catch (const std::exception&) {  // as Watch says
      }
    }
  }

  const std::function<void()> beat_;
  const double seconds_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ends_ = false;
  std::thread thread_;
};

/// Runs what is prepared; one object so that its steps need no long lists of arguments.
class Session {
 public:
  Session(Prepared& prepared, const Devices& devices, const plan::DevicePlan& placed, const store::Layout& layout,
          store::Writer* writer, const RunOptions& options, const Watch& watch)
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
                .rank = [this](std::int64_t row, const TopK& top) { rank(row, top); }} {}

  void run(RunReport& report) {
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

  /// Of all kept rows, those of an earlier run too.
  void write_top_k_texts() {
    const tokenizer::Tokenizer* tokenizer = layout_.top_k > 0 ? prepared_.tokenizer_if_any() : nullptr;
    if (tokenizer == nullptr) return;
    std::vector<std::string> texts;
    for (const std::int32_t id : writer_->top_k_ids()) texts.push_back(tokenizer->token_text(id));
    writer_->write_top_k_texts(texts);
  }

 private:
  std::size_t state_bytes() const {
    return static_cast<std::size_t>(largest_batch(prepared_) * prepared_.config.hidden_size) *
           size_of(prepared_.plan.dtype);
  }

  /// As many as have room for their states in half of the host's memory.
  std::size_t most_tasks_of_wave() const {
    const std::size_t room = placed_.host_limit_bytes / 2 / devices_.size();
    return std::max<std::size_t>(room / state_bytes(), 1);
  }

  void run_tasks(RunReport& report) {
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
    const Beating beating(watch_.beat ? [this] { watch_.beat(state()); } : std::function<void()>(),
                          watch_.beat_seconds);

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

  device::Ops& device(std::size_t replica, std::size_t index) {
    return *devices_[replica * placed_.devices.size() + index];
  }

  void make_replica(std::size_t replica, RunReport& report) {
    std::vector<std::vector<DeviceRun::StageEnds>> ends(placed_.devices.size());
    const std::size_t num_of_first = runs_.size() / std::max<std::size_t>(replica, 1);
    Link* before = nullptr;
    for (std::size_t i = 0; i < stages_.stages.size(); ++i) {
      const std::size_t at = stages_.stages[i].device;
      Link* after = nullptr;
      if (i + 1 < stages_.stages.size() && !stages_.layers_apart) {
        after = &make_link(device(replica, at), device(replica, stages_.stages[i + 1].device), report);
      }
      ends[at].push_back({.stage = i, .in = before, .out = after});
      before = after;
    }
    for (std::size_t i = 0; i < ends.size(); ++i) {
      if (ends[i].empty()) continue;  // it has nothing to do
      const plan::DevicePlan::DeviceRow& row = placed_.devices[i];
      const bool has_both = !row.modules.empty() && !row.streamed.empty();
      DeviceRun* const donor =
          replica == 0 || stages_.layers_apart ? nullptr : runs_[runs_.size() % num_of_first].get();
      runs_.push_back(std::make_unique<DeviceRun>(
          shared_, device(replica, i), layout_, gathering_,
          DeviceRun::Options{.modules = text(row.modules, has_both ? "; " : "",
                                             row.streamed.empty() ? "" : text("streamed ", row.streamed)),
                             .replica = replica,
                             .stages = std::move(ends[i]),
                             .states_bytes = states_bytes(row),
                             .max_tokens = largest_batch(prepared_),
                             .ring_bytes = options_.pinned_memory_bytes,
                             .donor = donor != nullptr && is_proven(donor->ops(), device(replica, i)) ? donor : nullptr,
                             .brings_chosen = brings_chosen_experts()}));
    }
  }

  /// A few tokens, one micro-batch of them, choose few of a layer's experts; then it pays to wait until they are known.
  /// Not where FP8 is multiplied: whether it is depends on all of a layer's experts.
  bool brings_chosen_experts() const {
    const auto& experts = prepared_.config.experts;
    return experts && stages_.largest_wave() == 1 && options_.fp8_math == Fp8Math::dequantize &&
           largest_batch(prepared_) * experts->num_experts_per_tok <= experts->num_experts;
  }

  /// What of the device is left for states of a wave, once everything else has its room.
  std::uint64_t states_bytes(const plan::DevicePlan::DeviceRow& row) const {
    const std::uint64_t room = row.reserve.states_bytes + row.free_bytes;
    const auto tasks = static_cast<std::int64_t>(stages_.largest_wave());
    const std::uint64_t rotations =
        plan::wave_states(prepared_.config, prepared_.plan.dtype, largest_batch(prepared_), tasks, 1).rotations();
    return room - std::min(room, rotations);
  }

  /// Why no peer copy goes from one to the other, where --transport lets it; empty: it can.
  std::string why_no_peer(const device::Ops& from, const device::Ops& to) const {
    if (options_.transport == Transport::automatic && is_set("NCCL_P2P_DISABLE")) return "NCCL_P2P_DISABLE is set";
    return from.reaches(to) ? "" : "the devices have no way to each other";
  }

  /// Whether weights are copied from one to the other: where --transport peer asks for it, and a trial as that of links
  /// succeeds.
  bool is_proven(device::Ops& from, device::Ops& to) {
    if (options_.transport != Transport::peer || !why_no_peer(from, to).empty()) return false;
    Link link(shared_.hub, from, to,
              {.is_peer = true,
               .max_tokens = largest_batch(prepared_),
               .hidden_size = prepared_.config.hidden_size,
               .dtype = prepared_.plan.dtype});
    if (link.carries()) return true;
    watch_.warn(
        text(from.name(), " to ", to.name(), ": peer copies arrive damaged; ", to.name(), " reads the weights"));
    return false;
  }

  Link& make_link(device::Ops& from, device::Ops& to, RunReport& report) {
    // A device that comes back to a wave takes all of it before it goes on: that may wait on the host alone.
    const bool waits_on_host = stages_.streams && stages_.comes_back;
    Link::Options options{.is_peer = options_.transport != Transport::host,
                          .is_by_nccl = options_.transport == Transport::nccl,
                          .capacity = waits_on_host ? stages_.largest_wave() + 1 : 0,
                          .max_tokens = largest_batch(prepared_),
                          .hidden_size = prepared_.config.hidden_size,
                          .dtype = prepared_.plan.dtype};
    std::string why;
    if (options.is_peer && waits_on_host) {
      why = "a device has several stages, between which whole waves wait";
    } else if (options.is_peer && !options.is_by_nccl) {
      why = why_no_peer(from, to);
    }
    options.is_peer = options.is_peer && why.empty();
    const std::string way = text(from.name(), " to ", to.name());
    std::unique_ptr<Link> link;
    try {
      link = std::make_unique<Link>(shared_.hub, from, to, options);
    } catch (const Error& error) {
      if (!options.is_peer || !options.is_by_nccl || error.kind() != ErrorKind::device) throw;
      why = error.parts().what;
    }
    if (link && link->is_peer() && !link->carries()) {
      why = text(options.is_by_nccl ? "NCCL's" : "peer", " copies arrive damaged");
      watch_.warn(text(way, ": ", why, "; hidden states go through the host's memory"));
      link.reset();
    }
    if (!link) {
      options.is_peer = false;
      link = std::make_unique<Link>(shared_.hub, from, to, options);
    }
    if (!link->is_peer() && !link->carries()) {
      throw Error({.kind = ErrorKind::device,
                   .where = way,
                   .what = "copies through the host's memory arrive damaged too",
                   .fix = "run on other devices: --device-map"});
    }
    const bool is_asked = options_.transport == Transport::peer || options_.transport == Transport::nccl;
    if (is_asked && !link->is_peer()) {
      watch_.warn(
          text("--transport ", options.is_by_nccl ? "nccl" : "peer", ": ", way, " goes through the host: ", why));
    }
    report.transfers.push_back({.from = from.name(), .to = to.name(), .transport = link->transport(), .why = why});
    return *links_.emplace_back(std::move(link));
  }

  std::vector<DeviceState> device_states() const {
    std::vector<DeviceState> states;
    for (const auto& run : runs_) states.push_back(run->state());
    return states;
  }

  RunState state() {
    RunState state = telling_.state(prepared_.plan.layers.size());
    for (const auto& run : runs_) state.captured_bytes += run->recorded_bytes();
    return state;
  }

  void rank(std::int64_t row, const TopK& top) {
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

  Prepared& prepared_;
  const Devices& devices_;
  const plan::DevicePlan& placed_;
  const store::Layout& layout_;
  store::Writer* const writer_;
  const RunOptions& options_;
  const Watch& watch_;
  const std::vector<Task> tasks_;
  const Stages stages_;
  capture::Gathering gathering_;
  Telling telling_;
  Shared shared_;
  std::vector<std::unique_ptr<Link>> links_;
  std::vector<std::unique_ptr<DeviceRun>> runs_;
  std::mutex rank_mutex_;
  std::vector<RunReport::Ranked> ranked_;
};

/// The partial or finished file that a resumed run finds; a path that does not exist where there is none.
std::filesystem::path continued_file(const std::string& output, store::Writer::IfExists if_exists) {
  if (if_exists != store::Writer::IfExists::resume || output == "none") return {};
  const std::filesystem::path partial = output + std::string(store::kPartialSuffix);
  return std::filesystem::exists(partial) ? partial : std::filesystem::path(output);
}

void multiply_fp8(const Devices& devices, const Prepared& prepared) {
  const auto refuse = [](std::string where, std::string what, std::string fix) {
    throw Error({.kind = ErrorKind::usage, .where = std::move(where), .what = std::move(what), .fix = std::move(fix)});
  };
  if (!prepared.config.fp8) {
    refuse("--fp8-math w8a8", "the checkpoint has no weights in blocks of FP8", "leave --fp8-math out");
  }
  if (size_of(prepared.plan.dtype) != 2) {
    refuse("--fp8-math w8a8", text("products of FP8 give bfloat16 or float16, not ", name_of(prepared.plan.dtype)),
           "use --dtype bfloat16, or --fp8-math dequantize");
  }
  for (const auto& device : devices) {
    if (device->multiply_fp8()) continue;
    refuse(text("--fp8-math w8a8: ", device->name()), "multiplies no FP8 in blocks",
           "use GPUs of compute capability 9.0 (H100, H200), or --fp8-math dequantize");
  }
}

/// Everything from the first weight read to the file's final name.
void run_into(store::Writer* writer, Prepared& prepared, const Devices& devices, const plan::DevicePlan& placed,
              const store::Layout& layout, const RunOptions& options, const Watch& watch, RunReport& report) {
  Session session(prepared, devices, placed, layout, writer, options, watch);
  session.run(report);
  if (writer == nullptr) return;
  session.write_top_k_texts();
  std::vector<std::string> transports;
  for (const RunReport::Transfer& transfer : report.transfers) {
    transports.push_back(text(transfer.from, " to ", transfer.to, ": ", transfer.transport,
                              transfer.why.empty() ? "" : text(" (", transfer.why, ")")));
  }
  writer->finish({{"end_time", now_text()},
                  {"load_seconds", report.load_seconds},
                  {"run_seconds", report.run_seconds},
                  {"transports", join(transports, "; ")}});
}

/// A run that was asked to stop, once all that it had is on the disk.
Error stopped(const std::string& output, const store::Writer& writer) {
  return Error({.kind = ErrorKind::interrupted,
                .where = text(output, store::kPartialSuffix),
                .what = text("stopped as asked; ", bytes_text(writer.complete_bytes()), " of ",
                             bytes_text(writer.capture_bytes()), " of captures are complete and on the disk"),
                .fix = "give the same command with --resume to go on from there"});
}

}  // namespace

Fp8Math parse_fp8_math(std::string_view given) {
  if (given == "dequantize") return Fp8Math::dequantize;
  if (given == "w8a8") return Fp8Math::w8a8;
  throw Error({.kind = ErrorKind::usage,
               .where = "--fp8-math",
               .what = text("\"", given.substr(0, 200), "\" is no way to multiply FP8"),
               .fix = "choose dequantize or w8a8"});
}

void Watch::stop_if_asked() const {
  if (!should_stop()) return;
  throw Error({.kind = ErrorKind::interrupted,
               .where = "run",
               .what = "stopped as asked; nothing was written",
               .fix = "give the same command again"});
}

RunReport run(const RunOptions& options, const Watch& watch) {
  const Clock::time_point start = Clock::now();
  Prepared prepared(options, watch);
  const plan::DevicePlan placed = plan_devices(options, prepared, machine_of(options));
  prepared.plan.tokens_per_batch = placed.tokens_per_batch;
  const Devices devices = open_devices(placed);
  if (options.fp8_math == Fp8Math::w8a8) multiply_fp8(devices, prepared);
  RunReport report;
  report.test_type = prepared.plan.test_type;
  report.dtype = prepared.plan.dtype;
  report.device = devices.front()->code_path();
  report.num_prompts = prepared.prompts.num_prompts();
  report.num_tokens = prepared.prompts.num_tokens();
  report.part = prepared.part;
  report.output = prepared.output(options);
  report.predicted = {.load_seconds = placed.load_seconds,
                      .run_seconds = placed.run_seconds,
                      .tokens_per_second = placed.tokens_per_second,
                      .binds = placed.binds};

  expect_memory(devices, placed);
  const store::Layout layout =
      make_layout(prepared, devices, placed, options,
                  choose_matmuls(devices, prepared.config, prepared.plan, options.fp8_math == Fp8Math::w8a8,
                                 continued_file(report.output, options.if_exists)));

  std::optional<store::Writer> writer;
  if (report.output != "none") writer.emplace(report.output, layout, options.if_exists);
  if (writer && writer->is_finished()) {
    report.was_finished = true;
    return report;
  }
  if (writer) report.resumed_bytes = writer->resumed_bytes();
  try {
    run_into(writer ? &*writer : nullptr, prepared, devices, placed, layout, options, watch, report);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::interrupted || !writer) throw;
    throw stopped(report.output, *writer);  // the session has ended, and with it committed what it had
  }
  report.first_non_finite = find_non_finite(report.points, prepared.plan, prepared.prompts);
  report.total_seconds = seconds_since(start);
  return report;
}

}  // namespace layerprobe::runtime
