#include "runtime/merge.h"

#include <algorithm>
#include <iostream>
#include <memory>

#include "base/bytes.h"
#include "base/json.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/share_done.h"
#include "cli/stop_signals.h"
#include "cli/table.h"

namespace layerprobe::cli {
namespace {

struct MergeArguments {
  runtime::MergeOptions merge;
  std::vector<std::string> shards;
  bool overwrite = false;
  bool resume = false;
  bool json = false;
  bool quiet = false;
};

Json json_of(const runtime::MergeReport& report) {
  Json out;
  out.set("output", report.output);
  out.set("num_shards", report.num_shards);
  out.set("num_prompts", report.num_prompts);
  out.set("num_tokens", report.num_tokens);
  out.set("num_points", report.num_points);
  out.set("captured_bytes", report.captured_bytes);
  out.set("resumed_bytes", report.resumed_bytes);
  out.set("was_finished", report.was_finished);
  out.set("seconds", report.seconds);
  return out;
}

void print(const runtime::MergeReport& report) {
  if (report.was_finished) {
    std::cout << shortened(report.output) << " is finished and matches; nothing to do\n";
    return;
  }
  const double rate =
      static_cast<double>(report.captured_bytes - report.resumed_bytes) / std::max(report.seconds, 1e-9);
  std::cout << "wrote " << shortened(report.output) << ": " << report.num_shards << " shards, " << report.num_prompts
            << " prompts, " << report.num_tokens << " tokens, " << report.num_points << " points, "
            << bytes_text(report.captured_bytes) << " of captures in " << number_text(report.seconds) << " s ("
            << bytes_text(static_cast<std::uint64_t>(rate)) << "/s)\n";
}

ExitCode run(MergeArguments& arguments) {
  using IfExists = store::Writer::IfExists;
  arguments.merge.shards.assign(arguments.shards.begin(), arguments.shards.end());
  arguments.merge.if_exists = arguments.overwrite ? IfExists::overwrite
                              : arguments.resume  ? IfExists::resume
                                                  : IfExists::refuse;
  runtime::MergeReport report;
  {
    const StopSignals signals;
    ShareDone share("merging");
    runtime::MergeWatch watch;
    if (!arguments.quiet) watch.step = [&](double done) { share.show(done); };
    watch.should_stop = [&] { return signals.has_come(); };
    report = runtime::merge(arguments.merge, watch);
  }
  if (arguments.json) {
    std::cout << json_of(report).dump(2) << "\n";
  } else if (!arguments.quiet) {
    print(report);
  }
  return ExitCode::success;
}

}  // namespace

void add_merge(CLI::App& app, Command& chosen, const std::string& command_line) {
  const auto arguments = std::make_shared<MergeArguments>();
  arguments->merge.command_line = command_line;
  CLI::App* command = app.add_subcommand("merge", "Put the files of all shards of a run (--shard) into one");
  command->add_option("output", arguments->merge.output, "The file to make; it reads as if one run had made it")
      ->required()
      ->type_name("OUT.h5");
  command->add_option("shards", arguments->shards, "The files of all shards, in any order; they are copied and stay")
      ->required()
      ->type_name("SHARD.h5");
  CLI::Option* overwrite = command->add_flag("--overwrite", arguments->overwrite, "Replace an output that exists");
  command->add_flag("--resume", arguments->resume, "Continue the output's partial file")->excludes(overwrite);
  command->add_flag("--json", arguments->json, "Print the report as JSON");
  command->add_flag("--quiet", arguments->quiet, "No progress or report");
  command->callback([&chosen, arguments] { chosen = [arguments] { return run(*arguments); }; });
}

}  // namespace layerprobe::cli
