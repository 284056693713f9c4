#include "runtime/session.h"

#include <algorithm>
#include <array>
#include <chrono>
#include <ctime>
#include <filesystem>
#include <optional>
#include <string_view>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"
#include "device/ops.h"
#include "runtime/device_needs.h"
#include "runtime/device_runs.h"
#include "runtime/prepared.h"
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
  DeviceRuns runs(prepared, devices, placed, layout, writer, options, watch);
  runs.run(report);
  if (writer == nullptr) return;
  runs.write_top_k_texts();
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
    throw stopped(report.output, *writer);  // all devices have ended, and have committed what it had
  }
  report.first_non_finite = find_non_finite(report.points, prepared.plan, prepared.prompts);
  report.total_seconds = seconds_since(start);
  return report;
}

}  // namespace layerprobe::runtime
