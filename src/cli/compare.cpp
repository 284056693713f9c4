#include "compare/compare.h"

#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/compare_output.h"
#include "cli/share_done.h"
#include "cli/table.h"
#include "store/reader.h"

namespace layerprobe::cli {
namespace {

struct CompareOptions {
  std::filesystem::path reference;
  std::filesystem::path candidate;
  std::filesystem::path baseline;
  std::optional<double> max_rel_l2;
  bool exact = false;
  std::vector<std::string> points;
  std::vector<std::string> thresholds;
  std::filesystem::path report;
  bool json = false;
};

compare::Rules rules_of(const CompareOptions& options) {
  if (options.max_rel_l2 && !(*options.max_rel_l2 >= 0)) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--max-rel-l2",
                 .what = text(*options.max_rel_l2, " is not a number from 0 on"),
                 .fix = "give the largest relative error that agrees, as 1e-2"});
  }
  compare::Rules rules = {.max_rel_l2 = options.max_rel_l2, .exact = options.exact, .points = {}};
  for (const std::string& each : options.thresholds) rules.thresholds.push_back(compare::parse_threshold(each));
  for (const std::string& list : options.points) {
    for (const std::string& pattern : split(list, ',')) rules.points.emplace_back(trimmed(pattern));
  }
  return rules;
}

/// For writing; not open where there is no path. Tried before the long work.
std::ofstream opened(const std::filesystem::path& path, const char* option) {
  std::ofstream out;
  if (path.empty()) return out;
  out.open(path, std::ios::binary);
  if (out) return out;
  throw Error({.kind = ErrorKind::usage,
               .where = text(option, " ", path.string()),
               .what = "cannot be written",
               .fix = "name a file in a folder that exists and may be written to"});
}

void finish(std::ofstream& out, const std::filesystem::path& path) {
  out.close();
  if (out) return;
  throw Error({.kind = ErrorKind::resource,
               .where = path.string(),
               .what = "could not be written to its end",
               .fix = "see whether the disk is full"});
}

ExitCode run(const CompareOptions& options) {
  const compare::Rules rules = rules_of(options);
  const store::Reader reference(options.reference);
  const store::Reader candidate(options.candidate);
  std::optional<store::Reader> baseline;
  if (!options.baseline.empty()) baseline.emplace(options.baseline);
  std::ofstream report_file = opened(options.report, "--report");
  ShareDone share_done("comparing");
  const compare::Report report = compare::compare_runs(
      reference, candidate, rules, [&](double share) { share_done.show(share); }, baseline ? &*baseline : nullptr);
  share_done.finish();
  if (options.json) {
    write_json_lines(std::cout, report);
  } else {
    print_compared(report);
    std::cout << printable(compare::verdict(report)) << "\n";
  }
  if (!options.report.empty()) {
    write_json_lines(report_file, report);
    finish(report_file, options.report);
  }
  return report.agrees() ? ExitCode::success : ExitCode::differs;
}

}  // namespace

void add_compare(CLI::App& app, Command& chosen) {
  const auto options = std::make_shared<CompareOptions>();
  CLI::App* command = app.add_subcommand("compare", "Show where two captured runs start to differ");
  command->add_option("reference", options->reference, "Captured run to trust")->required();
  command->add_option("candidate", options->candidate, "Captured run to judge")->required();
  command->add_option(
      "--max-rel-l2", options->max_rel_l2,
      "Largest ||candidate - reference|| / ||reference|| of a point that agrees. Default: by the narrower "
      "dtype, bfloat16 and float16 1e-2, float32 1e-5, float64 1e-12, times the square root of the blocks before");
  command->add_flag("--exact", options->exact, "Only the same bits agree");
  command
      ->add_option("--points", options->points,
                   "Points to compare, by patterns; comma or repetition; * stops at a dot, ** does not. Default: all")
      ->allow_extra_args(false);
  command
      ->add_option("--threshold", options->thresholds,
                   "When points agree, as 'model.layers.*.mlp: rel_l2 <= 5e-3 or max_abs <= 1e-3'; repeatable, and the "
                   "first whose pattern matches decides")
      ->type_name("'GLOB: EXPR'")
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option("--baseline", options->baseline,
                   "A correct run in the candidate's dtype: a point agrees up to 1.5 times its error")
      ->type_name("FILE.h5");
  command->add_option("--report", options->report, "Also write the lines of --json to this file")->type_name("FILE");
  command->add_flag("--json", options->json, "Print a JSON object a line, each with a type");
  command->footer("Exit status: 0 all points agree, 1 some do not, 2 nothing could be compared.");
  command->callback([&chosen, options] { chosen = [options] { return run(*options); }; });
}

}  // namespace layerprobe::cli
