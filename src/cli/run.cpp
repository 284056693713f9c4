#include <iomanip>
#include <iostream>
#include <memory>
#include <utility>

#include "base/bytes.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/common_options.h"
#include "cli/metrics.h"
#include "cli/progress.h"
#include "cli/stop_signals.h"
#include "cli/table.h"
#include "cli/usage.h"
#include "runtime/session.h"

namespace layerprobe::cli {
namespace {

struct RunArguments {
  CommonArguments common;
  std::string pinned_memory;
  std::string metrics;
  bool overwrite = false;
  bool resume = false;
};

Json statistics_json(const Statistics& statistics) {
  Json out;
  out.set("count", statistics.count);
  out.set("mean", statistics.mean());
  out.set("std", statistics.std());
  out.set("min", statistics.min);
  out.set("max", statistics.max);
  out.set("abs_max", statistics.abs_max);
  out.set("abs_max_row", statistics.abs_max_row);
  out.set("abs_max_column", statistics.abs_max_column);
  out.set("nan_count", statistics.nan_count);
  out.set("inf_count", statistics.inf_count);
  return out;
}

Json ranked_json(const runtime::RunReport::Ranked& ranked) {
  Json out;
  out.set("prompt", ranked.prompt);
  out.set("token", ranked.token);
  Json ids(Json::Array{}), logits(Json::Array{}), texts(Json::Array{});
  for (const std::int32_t id : ranked.ids) ids.push(id);
  for (const float logit : ranked.logits) logits.push(double{logit});
  for (const std::string& token : ranked.texts) texts.push(token);
  out.set("ids", ids);
  out.set("logits", logits);
  out.set("texts", texts);
  return out;
}

Json device_json(const runtime::RunReport::Device& device) {
  Json out;
  out.set("name", device.name);
  out.set("modules", device.modules);
  out.set("replica", device.replica);
  out.set("weights_from", device.weights_from.empty() ? "checkpoint" : device.weights_from);
  out.set("most_bytes", device.most_bytes);
  out.set("busy_seconds", device.busy_seconds);
  out.set("busy_share", device.busy_share);
  out.set("waited_for_weights_seconds", device.waited_for_weights_seconds);
  out.set("waited_for_upstream_seconds", device.waited_for_upstream_seconds);
  out.set("waited_for_downstream_seconds", device.waited_for_downstream_seconds);
  out.set("waited_for_ring_seconds", device.waited_for_ring_seconds);
  return out;
}

Json json_of(const runtime::RunReport& report) {
  Json out;
  out.set("output", report.output);
  out.set("test_type", plan::name_of(report.test_type));
  out.set("dtype", name_of(report.dtype));
  out.set("device", report.device);
  out.set("num_prompts", report.num_prompts);
  out.set("num_tokens", report.num_tokens);
  out.set("shard", shard_json(report.part));
  out.set("computed_tokens", report.computed_tokens);
  out.set("captured_bytes", report.captured_bytes);
  out.set("resumed_bytes", report.resumed_bytes);
  out.set("was_finished", report.was_finished);
  out.set("load_seconds", report.load_seconds);
  out.set("run_seconds", report.run_seconds);
  out.set("total_seconds", report.total_seconds);
  out.set("waited_seconds", report.waited_seconds);
  out.set("num_waves", report.num_waves);
  Json chosen_experts;
  if (report.chosen_experts.num_all > 0) {
    chosen_experts.set("num_read", report.chosen_experts.num_read);
    chosen_experts.set("num_all", report.chosen_experts.num_all);
  }
  out.set("chosen_experts", chosen_experts);
  Json predicted;
  predicted.set("load_seconds", report.predicted.load_seconds);
  predicted.set("run_seconds", report.predicted.run_seconds);
  predicted.set("tokens_per_second", report.predicted.tokens_per_second);
  predicted.set("binds", report.predicted.binds);
  out.set("predicted", predicted);
  Json devices(Json::Array{});
  for (const runtime::RunReport::Device& device : report.devices) devices.push(device_json(device));
  out.set("devices", devices);
  Json transfers(Json::Array{});
  for (const runtime::RunReport::Transfer& transfer : report.transfers) {
    Json row;
    row.set("from", transfer.from);
    row.set("to", transfer.to);
    row.set("transport", transfer.transport);
    row.set("why", transfer.why);
    transfers.push(row);
  }
  out.set("transfers", transfers);
  Json points(Json::Array{});
  for (const runtime::RunReport::Point& point : report.points) {
    Json row;
    row.set("name", point.name);
    row.set("width", point.width);
    row.set("stored", point.stored);
    row.set("statistics", statistics_json(point.statistics));
    points.push(row);
  }
  out.set("points", points);
  Json non_finite;
  if (report.first_non_finite) {
    non_finite.set("point", report.first_non_finite->point);
    non_finite.set("prompt", report.first_non_finite->prompt);
    non_finite.set("token", report.first_non_finite->token);
    non_finite.set("nan_count", report.first_non_finite->nan_count);
    non_finite.set("inf_count", report.first_non_finite->inf_count);
  }
  out.set("first_non_finite", non_finite);
  Json top_k(Json::Array{});
  for (const runtime::RunReport::Ranked& ranked : report.top_k) top_k.push(ranked_json(ranked));
  out.set("top_k", top_k);
  return out;
}

/// "1 prompt", "7 prompts"
std::string counted(std::int64_t count, const char* what) { return text(count, " ", what, count == 1 ? "" : "s"); }

void print_top_k(const runtime::RunReport& report) {
  constexpr std::size_t kShownRows = 20, kShownTokens = 5;
  Table table({{"prompt"}, {"token"}, {"next tokens, largest logit first", Table::Align::left}});
  for (const runtime::RunReport::Ranked& ranked : report.top_k) {
    if (table.num_rows() == kShownRows) break;
    std::string shown;
    for (std::size_t i = 0; i < std::min(kShownTokens, ranked.ids.size()); ++i) {
      const std::string token = ranked.texts.empty() ? text(ranked.ids[i]) : text('"', ranked.texts[i], '"');
      shown += text(i == 0 ? "" : "  ", token, " ", number_text(ranked.logits[i]));
    }
    table.add_row({text(ranked.prompt), text(ranked.token), shown});
  }
  std::cout << table;
  if (report.top_k.size() > kShownRows) {
    std::cout << "(" << report.top_k.size() - kShownRows << " more rows in /topk of the file)\n";
  }
}

void print_statistics(const runtime::RunReport& report) {
  Table table({{"point", Table::Align::left}, {"mean"}, {"std"}, {"min"}, {"max"}, {"NaN"}, {"Inf"}});
  for (const runtime::RunReport::Point& point : report.points) {
    const Statistics& s = point.statistics;
    const bool has_finite = s.count > s.nan_count + s.inf_count;
    const auto shown = [&](double value) { return has_finite ? number_text(value) : "-"; };
    table.add_row({point.name, shown(s.mean()), shown(s.std()), shown(s.min), shown(s.max), text(s.nan_count),
                   text(s.inf_count)});
  }
  std::cout << table;
}

/// Where there is more to say than of one device that has all of it.
void print_devices(const runtime::RunReport& report) {
  if (report.devices.size() < 2 && report.num_waves == 0) return;
  Table table({{"device", Table::Align::left},
               {"memory"},
               {"busy"},
               {"waited for weights"},
               {"upstream"},
               {"downstream"},
               {"ring"},
               {"modules", Table::Align::left}});
  const auto seconds = [](double value) { return number_text(value) + " s"; };
  for (const runtime::RunReport::Device& device : report.devices) {
    table.add_row(
        {device.name, bytes_text(device.most_bytes), text(static_cast<int>(100 * device.busy_share + 0.5), "%"),
         seconds(device.waited_for_weights_seconds), seconds(device.waited_for_upstream_seconds),
         seconds(device.waited_for_downstream_seconds), seconds(device.waited_for_ring_seconds), device.modules});
  }
  std::cout << table;
  std::vector<std::string> ways;
  for (const runtime::RunReport::Transfer& transfer : report.transfers) {
    ways.push_back(text(transfer.from, " to ", transfer.to, " by ", transfer.transport,
                        transfer.why.empty() ? "" : text(" (", transfer.why, ")")));
  }
  if (!ways.empty()) std::cout << "hidden states: " << join(ways, ", ") << "\n";
  if (report.num_waves > 0) {
    std::cout << "streamed weights were read in " << counted(report.num_waves, "wave") << "\n";
  }
  const double rate = static_cast<double>(report.computed_tokens) / std::max(report.run_seconds, 1e-9);
  std::cout << "predicted: " << number_text(report.predicted.tokens_per_second) << " tokens/s ("
            << report.predicted.binds << " binds); measured: " << number_text(rate) << "\n";
}

void print(const runtime::RunReport& report) {
  if (report.was_finished) {
    std::cout << report.output << " is finished and matches; nothing to do\n";
    return;
  }
  print_statistics(report);
  if (!report.top_k.empty()) print_top_k(report);
  std::cout << plan::name_of(report.test_type) << " in " << name_of(report.dtype) << " on " << report.device << "\n"
            << (report.part ? shard_text(*report.part) + "\n" : "") << counted(report.num_prompts, "prompt") << ", "
            << counted(report.num_tokens, "token") << ", "
            << counted(static_cast<std::int64_t>(report.points.size()), "point");
  if (report.resumed_bytes > 0) std::cout << "; " << bytes_text(report.resumed_bytes) << " were complete before";
  const double rate = static_cast<double>(report.computed_tokens) / std::max(report.run_seconds, 1e-9);
  std::cout << "\nloaded in " << number_text(report.load_seconds) << " s, ran in " << number_text(report.run_seconds)
            << " s (" << number_text(rate) << " tokens/s";
  if (report.waited_seconds >= 0.05)
    std::cout << "; compute waited " << number_text(report.waited_seconds) << " s for the disk";
  std::cout << "), " << number_text(report.total_seconds) << " s in all\n";
  if (report.chosen_experts.num_all > 0) {
    std::cout << "read " << report.chosen_experts.num_read << " of " << counted(report.chosen_experts.num_all, "expert")
              << ": those that tokens chose\n";
  }
  print_devices(report);
  if (report.output != "none") {
    std::cout << "wrote " << report.output << ": " << bytes_text(report.captured_bytes + report.resumed_bytes)
              << " of captures\n";
  }
}

/// Keeps the file of --metrics while the run goes on.
runtime::RunReport run_with_metrics(const RunArguments& arguments, runtime::Watch& watch) {
  const runtime::RunOptions& options = arguments.common.run;
  if (arguments.metrics.empty()) return runtime::run(options, watch);
  Metrics metrics(arguments.metrics,
                  {{"model", options.model},
                   {"test_type", arguments.common.test_type},
                   {"output", options.output},
                   {"shard", arguments.common.shard},
                   {"version", LAYERPROBE_VERSION}},
                  gpu_reader());
  std::string problem;  // told at the end: beats come beside the steps that are shown
  watch.beat = [&](const runtime::RunState& state) {
    try {
      metrics.write(state);
    } catch (const Error& error) {
      problem = text("--metrics: ", error.parts().where, ": ", error.parts().what);
    }
  };
  try {
    runtime::RunReport report = runtime::run(options, watch);
    metrics.end("finished");
    if (!problem.empty()) watch.warn(problem);
    return report;
  } catch (const Error& error) {
    metrics.end(error.kind() == ErrorKind::interrupted ? "stopped" : "failed");
    throw;
  } catch (...) {
    metrics.end("failed");
    throw;
  }
}

ExitCode run(RunArguments& arguments) {
  runtime::RunOptions& options = finished(arguments.common);
  if (!arguments.pinned_memory.empty()) {
    options.pinned_memory_bytes = parse_bytes(arguments.pinned_memory, "--pinned-memory");
  }
  using IfExists = store::Writer::IfExists;
  options.if_exists = arguments.overwrite ? IfExists::overwrite
                      : arguments.resume  ? IfExists::resume
                                          : IfExists::refuse;
  runtime::RunReport report;
  {
    const StopSignals signals;
    Progress progress(arguments.common.quiet);
    runtime::Watch watch = progress.watch();
    watch.should_stop = [&] { return signals.has_come(); };
    report = run_with_metrics(arguments, watch);
  }
  if (arguments.common.json) {
    std::cout << json_of(report).dump(2) << "\n";
  } else if (!arguments.common.quiet) {
    print(report);
  }
  if (!report.first_non_finite) return ExitCode::success;
  const runtime::RunReport::NonFinite& found = *report.first_non_finite;
  std::cerr << "not finite: first in " << found.point << ", prompt " << found.prompt << ", "
            << (found.token < 0 ? std::string("mean") : text("token ", found.token))
            << (report.part
                    ? text(", which is prompt ", report.part->first_prompt + found.prompt, " of the whole input")
                    : "")
            << " (" << found.nan_count << " NaN and " << found.inf_count << " infinite values in this point)\n";
  return ExitCode::differs;
}

}  // namespace

void add_run(CLI::App& app, Command& chosen, const std::string& command_line) {
  const auto arguments = std::make_shared<RunArguments>();
  arguments->common.run.command_line = command_line;
  CLI::App* command = app.add_subcommand("run", "Run a model and keep what its layers computed (the default command)");
  add_common_options(*command, arguments->common);
  command
      ->add_option("--commit-every", arguments->common.run.commit_every_seconds,
                   "How much work a crash may lose: what is complete is synced to the disk this often")
      ->capture_default_str()
      ->check(number_from_0)
      ->type_name("SECONDS");
  command
      ->add_option("--pinned-memory", arguments->pinned_memory,
                   "Memory of the host for captures on their way to the file, as in 512MiB (1GiB for a GPU)")
      ->type_name("SIZE");
  command
      ->add_option(
          "--metrics", arguments->metrics,
          "Keep a Prometheus text file of how far the run is and what its devices wait for, replaced every 10 s")
      ->type_name("FILE.prom");
  CLI::Option* overwrite = command->add_flag("--overwrite", arguments->overwrite, "Replace an output that exists");
  command->add_flag("--resume", arguments->resume, "Continue the output's partial file")->excludes(overwrite);
  command->callback([&chosen, arguments] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace layerprobe::cli
