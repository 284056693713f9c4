#include "runtime/session.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <memory>
#include <optional>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "capture/recorder.h"
#include "device/ops.h"
#include "model/weights.h"
#include "runtime/device_needs.h"
#include "runtime/forward_pass.h"
#include "runtime/prepared.h"
#include "runtime/schedule.h"
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

store::Layout make_layout(const Prepared& prepared, device::Ops& ops, const RunOptions& options,
                          const std::string& matmul_choices) {
  const plan::Plan& plan = prepared.plan;
  store::Layout layout;
  layout.points = plan.points;
  layout.prompts = prepared.prompts;
  layout.rows = plan.rows;
  layout.top_k = plan.top_k;
  layout.identity = {{"model_hash", prepared.checkpoint.hash()},
                     {"model_type", prepared.config.model_type},
                     {"test_type", std::string(plan::name_of(plan.test_type))},
                     {"dtype", std::string(name_of(plan.dtype))},
                     {"numerics", std::string("reference")},
                     {"input", prepared.hidden_states ? prepared.hidden_states->identity() : std::string("tokens")},
                     {"code_path", ops.code_path()},
                     {kMatMulChoices, matmul_choices}};
  layout.information = {{"model", std::filesystem::absolute(prepared.checkpoint.path()).string()},
                        {"program", std::string("layerprobe ") + LAYERPROBE_VERSION},
                        {"command_line", options.command_line},
                        {"device_map", options.device_map},
                        {"device", ops.name()},
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

/// Runs what is prepared; one object so that its steps need no long lists of arguments.
class Session {
 public:
  Session(Prepared& prepared, device::Ops& ops, const store::Layout& layout, store::Writer* writer,
          const capture::Recorder::Options& capture, const Watch& watch)
      : prepared_(prepared),
        ops_(ops),
        layout_(layout),
        writer_(writer),
        watch_(watch),
        recorder_(ops, layout_, prepared.plan.keeps_mean, writer, capture),
        forward_(prepared.config, prepared.plan, prepared.prompts, ops, recorder_,
                 [this](std::int64_t row, const TopK& top) { rank(row, top); }) {
    forward_.after_layer = [this](std::int64_t tokens) { tell_running(tokens); };
  }

  void run(RunReport& report) {
    const plan::Plan& plan = prepared_.plan;
    const IsComplete is_complete = [this](std::size_t point, std::int64_t prompt) {
      return writer_ != nullptr && writer_->is_complete(point, prompt);
    };
    const std::vector<Task> tasks = schedule(plan, prepared_.prompts, is_complete);
    for (const Task& task : tasks) {
      report.computed_tokens += task.batch.num_tokens();
      tokens_total_ += static_cast<std::uint64_t>(task.batch.num_tokens()) * (plan.layers.size() - task.first_layer);
    }
    model::WeightLoader loader(prepared_.config, prepared_.checkpoint, plan.dtype, ops_,
                               [this](std::uint64_t bytes) { tell_loading(bytes); });
    count_bytes(loader);

    // `single` runs each layer by itself, all other types the whole range at once.
    const std::size_t group =
        plan.test_type == plan::TestType::single ? 1 : std::max<std::size_t>(plan.layers.size(), 1);
    for (std::size_t first = 0; !tasks.empty() && (first == 0 || first < plan.layers.size()); first += group) {
      const std::size_t count = std::min(group, plan.layers.size() - first);
      step_start_ = Clock::now();
      forward_.load(loader, std::span(plan.layers).subspan(first, count));
      report.load_seconds += seconds_since(step_start_);
      step_start_ = Clock::now();
      for (const Task& task : tasks) run_task(task, first);
      report.run_seconds += seconds_since(step_start_);
    }
    step_start_ = Clock::now();
    ops_.synchronize();
    recorder_.finish();
    report.run_seconds += seconds_since(step_start_);
    report.waited_seconds = recorder_.waited_seconds();
    report.captured_bytes = recorder_.recorded_bytes();
    report.top_k = std::move(ranked_);
    const std::vector<Statistics> statistics = writer_ != nullptr ? writer_->statistics() : recorder_.statistics();
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
  void run_task(const Task& task, std::size_t first) {
    if (prepared_.plan.runs_embedding && !task.from_capture) {
      forward_.run_from_ids(task.batch);
      return;
    }
    const plan::Plan& plan = prepared_.plan;
    const std::size_t at = task.from_capture ? task.first_layer : first;
    const std::int64_t first_token = prepared_.prompts.cu_seqlens[static_cast<std::size_t>(task.batch.first_prompt)];
    hidden_states_.resize(static_cast<std::size_t>(task.batch.num_tokens() * prepared_.config.hidden_size) *
                          size_of(plan.dtype));
    if (task.from_capture) {
      const auto before = plan.find(text("model.layers.", plan.layers[at - 1]));
      writer_->read_rows(*before, first_token, hidden_states_);
    } else {
      prepared_.hidden_states->read(plan.layers[at], first_token, task.batch.num_tokens(), plan.dtype, hidden_states_);
    }
    const std::int64_t behind_last = plan.layers.back() + 1;
    forward_.run_from_hidden_states(task.batch, at < plan.layers.size() ? plan.layers[at] : behind_last,
                                    hidden_states_);
  }

  void rank(std::int64_t row, const TopK& top) {
    if (writer_ != nullptr) writer_->write_top_k(row, top.ids, top.logits);
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

  void count_bytes(const model::WeightLoader& loader) {
    const plan::Plan& plan = prepared_.plan;
    for (const std::int64_t layer : plan.layers) bytes_total_ += loader.layer_bytes(layer);
    if (plan.runs_embedding) bytes_total_ += loader.embedding_bytes();
    if (plan.runs_norm) bytes_total_ += loader.norm_bytes();
    if (plan.runs_lm_head) bytes_total_ += loader.lm_head_bytes();
  }

  void tell_loading(std::uint64_t bytes) {
    watch_.stop_if_asked();
    bytes_done_ += bytes;
    watch_.step({Watch::Step::Kind::loading, bytes_done_, bytes_total_, seconds_since(step_start_)});
  }

  void tell_running(std::int64_t tokens) {
    watch_.stop_if_asked();
    tokens_done_ += static_cast<std::uint64_t>(tokens);
    watch_.step({Watch::Step::Kind::running, tokens_done_, tokens_total_, seconds_since(step_start_)});
  }

  Prepared& prepared_;
  device::Ops& ops_;
  const store::Layout& layout_;
  store::Writer* const writer_;
  const Watch& watch_;
  capture::Recorder recorder_;
  ForwardPass forward_;
  std::vector<std::byte> hidden_states_;
  std::vector<RunReport::Ranked> ranked_;
  Clock::time_point step_start_ = Clock::now();
  std::uint64_t bytes_done_ = 0, bytes_total_ = 0, tokens_done_ = 0, tokens_total_ = 0;
};

/// The partial or finished file that a resumed run finds; a path that does not exist where there is none.
std::filesystem::path continued_file(const std::string& output, store::Writer::IfExists if_exists) {
  if (if_exists != store::Writer::IfExists::resume || output == "none") return {};
  const std::filesystem::path partial = output + std::string(store::kPartialSuffix);
  return std::filesystem::exists(partial) ? partial : std::filesystem::path(output);
}

/// Of the tokens that go through a layer at once.
std::int64_t largest_batch(const Prepared& prepared) {
  std::int64_t longest = 0;
  for (std::int64_t prompt = 0; prompt < prepared.prompts.num_prompts(); ++prompt) {
    longest = std::max(longest, prepared.prompts.length(prompt));
  }
  return std::max(longest, std::min(prepared.plan.tokens_per_batch, prepared.prompts.num_tokens()));
}

/// Everything from the first weight read to the file's final name.
void run_into(store::Writer* writer, Prepared& prepared, device::Ops& ops, const store::Layout& layout,
              const RunOptions& options, const Watch& watch, RunReport& report) {
  Session session(prepared, ops, layout, writer,
                  {.ring_bytes = options.pinned_memory_bytes,
                   .commit_every = std::chrono::duration<double>(options.commit_every_seconds)},
                  watch);
  session.run(report);
  if (writer == nullptr) return;
  session.write_top_k_texts();
  writer->finish(
      {{"end_time", now_text()}, {"load_seconds", report.load_seconds}, {"run_seconds", report.run_seconds}});
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

void Watch::stop_if_asked() const {
  if (!should_stop()) return;
  throw Error({.kind = ErrorKind::interrupted,
               .where = "run",
               .what = "stopped as asked; nothing was written",
               .fix = "give the same command again"});
}

RunReport run(const RunOptions& options, const Watch& watch) {
  const Clock::time_point start = Clock::now();
  const RunDevice device = open_device(options.device_map, options.max_memory);
  device::Ops& ops = *device.ops;
  Prepared prepared(options, watch);
  if (prepared.plan.tokens_per_batch == 0) {
    prepared.plan.tokens_per_batch = good_batch_tokens(device, prepared.config, prepared.checkpoint, prepared.plan);
  }
  RunReport report;
  report.test_type = prepared.plan.test_type;
  report.dtype = prepared.plan.dtype;
  report.device = ops.code_path();
  report.num_prompts = prepared.prompts.num_prompts();
  report.num_tokens = prepared.prompts.num_tokens();
  report.output = prepared.output(options);

  expect_memory(device, prepared.config, prepared.checkpoint, prepared.plan, largest_batch(prepared));
  const store::Layout layout = make_layout(
      prepared, ops, options,
      choose_matmuls(ops, prepared.config, prepared.plan, continued_file(report.output, options.if_exists)));

  std::optional<store::Writer> writer;
  if (report.output != "none") writer.emplace(report.output, layout, options.if_exists);
  if (writer && writer->is_finished()) {
    report.was_finished = true;
    return report;
  }
  if (writer) report.resumed_bytes = writer->resumed_bytes();
  try {
    run_into(writer ? &*writer : nullptr, prepared, ops, layout, options, watch, report);
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::interrupted || !writer) throw;
    throw stopped(report.output, *writer);  // the session has ended, and with it committed what it had
  }
  report.first_non_finite = find_non_finite(report.points, prepared.plan, prepared.prompts);
  report.total_seconds = seconds_since(start);
  return report;
}

}  // namespace layerprobe::runtime
