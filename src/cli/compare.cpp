#include "compare/compare.h"

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <system_error>
#include <utility>
#include <vector>

#include "base/dtype.h"
#include "base/error.h"
#include "base/probe_point.h"
#include "base/text.h"
#include "cli/blame.h"
#include "cli/command.h"
#include "cli/compare_output.h"
#include "cli/share_done.h"
#include "cli/table.h"
#include "compare/align.h"
#include "compare/threshold.h"
#include "model/config.h"
#include "model/tensors.h"
#include "runtime/prepared.h"
#include "runtime/session.h"
#include "store/reader.h"
#include "tokenizer/tokenizer.h"
#include "weights/checkpoint.h"

namespace layerprobe::cli {
namespace {

struct CompareOptions {
  std::filesystem::path reference;
  std::filesystem::path candidate;
  std::filesystem::path baseline;
  std::optional<double> max_rel_l2;
  bool exact = false;
  bool fail_fast = false;
  std::vector<std::string> allow_skip;
  std::vector<std::string> points;
  std::vector<std::string> thresholds;
  std::filesystem::path report;
  std::filesystem::path html;
  bool json = false;
  bool blame = false;
  runtime::RunOptions run;  // of --blame: model, dtype, device
};

/// Of --model's routers; asked only where files hold what such ones chose. A model that cannot be read has none.
compare::SelectionBias selection_bias_of(const CompareOptions& options) {
  if (options.run.model.empty()) return {};
  struct Opened {
    std::optional<weights::Checkpoint> checkpoint;
    std::optional<model::ModelConfig> config;
    bool was_tried = false;
  };
  const auto opened = std::make_shared<Opened>();
  return [opened, name = options.run.model](int layer) -> std::vector<double> {
    try {
      if (!std::exchange(opened->was_tried, true)) {
        opened->checkpoint.emplace(weights::Checkpoint::open(name));
        opened->config.emplace(model::read_config(opened->checkpoint->config(), name));
      }
      if (!opened->config || layer < 0 || layer >= opened->config->num_hidden_layers) return {};
      const model::ModelConfig& config = *opened->config;
      const bool has_bias = config.has_experts(layer) && config.experts->router.has_selection_bias &&
                            config.experts->router.scores == model::Router::Scores::sigmoid;
      const weights::TensorInfo* const bias =
          has_bias ? opened->checkpoint->find(model::selection_bias_name(config, layer)) : nullptr;
      if (bias == nullptr || bias->num_elements() != config.experts->num_experts) return {};
      std::vector<double> out(static_cast<std::size_t>(bias->num_elements()));
      opened->checkpoint->read(*bias, Dtype::f64, out.data());
      return out;
    } catch (const Error& error) {
      std::cerr << "note: margins of routers with a bias stay unknown: "
                << printable(text(error.parts().where, ": ", error.parts().what)) << "\n";
      return {};
    }
  };
}

compare::Rules rules_of(const CompareOptions& options) {
  if (options.blame && options.run.model.empty()) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--blame",
                 .what = "needs a model whose blocks it can run",
                 .fix = "give --model PATH, or set MODEL_PATH"});
  }
  if (options.max_rel_l2 && !(*options.max_rel_l2 >= 0)) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--max-rel-l2",
                 .what = text(*options.max_rel_l2, " is not a number from 0 on"),
                 .fix = "give the largest relative error that agrees, as 1e-2"});
  }
  compare::Rules rules = {.max_rel_l2 = options.max_rel_l2, .exact = options.exact, .points = {}};
  rules.selection_bias = selection_bias_of(options);
  rules.fail_fast = options.fail_fast;
  if (!options.allow_skip.empty()) rules.allow_skip.emplace();
  for (const std::string& list : options.allow_skip) {
    for (const std::string& pattern : split(list, ',')) rules.allow_skip->emplace_back(trimmed(pattern));
  }
  for (const std::string& each : options.thresholds) rules.thresholds.push_back(compare::parse_threshold(each));
  for (const std::string& list : options.points) {
    for (const std::string& pattern : split(list, ',')) rules.points.emplace_back(trimmed(pattern));
  }
  return rules;
}

/// A pattern that names no point would leave to the usual limits, without a word, what it was meant for.
void expect_matches(const std::vector<compare::Threshold>& thresholds, const store::Reader& reference,
                    const store::Reader& candidate) {
  std::vector<std::string> names;
  for (const store::Reader* reader : {&reference, &candidate}) {
    for (const store::Layout::Point& each : reader->points()) {
      names.push_back(compare::canonical_name(each.point.name));
    }
  }
  for (const compare::Threshold& each : thresholds) {
    const std::string pattern = compare::canonical_name(each.pattern);
    if (std::ranges::any_of(names, [&](const std::string& name) { return matches(pattern, name); })) continue;
    const std::vector<std::string> nearest = nearest_names(pattern, names);
    throw Error({.kind = ErrorKind::usage,
                 .where = text("--threshold '", each.pattern, ": ", each.expression, "'"),
                 .what = "no point of either file matches the pattern",
                 .fix = nearest.empty() ? std::string("layerprobe inspect lists the points of a file")
                                        : "did you mean " + join(nearest, " or ") + "?"});
  }
}

bool is_hdf5(const std::filesystem::path& path) {
  constexpr std::string_view kSignature = "\x89HDF\r\n\x1a\n";
  std::error_code missing;
  if (!std::filesystem::is_regular_file(path, missing)) return false;  // reading a pipe could wait for ever
  std::string begin(kSignature.size(), '\0');
  return std::ifstream(path, std::ios::binary).read(begin.data(), std::ssize(begin)) && begin == kSignature;
}

/// What --report or --html names. It is made beside it and gets its name when it is whole; what is no plain file, as
/// /dev/stdout, is written straight. Tried before the long work.
class ReportFile {
 public:
  /// Nothing is written where `path` is empty.
  ReportFile(std::filesystem::path path, const char* option) : path_(std::move(path)) {
    if (path_.empty()) return;
    if (is_hdf5(path_)) refuse(option, "is an HDF5 file, which a report does not replace", "name another file");
    std::error_code missing;
    const auto status = std::filesystem::symlink_status(path_, missing);
    const bool goes_straight = std::filesystem::exists(status) && !std::filesystem::is_regular_file(status);
    if (!goes_straight) unready_ = path_.parent_path() / text(".", path_.filename().string(), ".new");
    out_.open(goes_straight ? path_ : unready_, std::ios::binary);
    if (!out_) refuse(option, "cannot be written", "name a file in a folder that exists and may be written to");
  }
  ~ReportFile() {
    std::error_code ignored;
    if (!unready_.empty()) std::filesystem::remove(unready_, ignored);
  }
  ReportFile(const ReportFile&) = delete;
  ReportFile& operator=(const ReportFile&) = delete;

  std::ostream& out() { return out_; }

  void finish() {
    out_.close();
    std::error_code problem;
    if (out_ && !unready_.empty()) std::filesystem::rename(unready_, path_, problem);
    if (out_ && !problem) return unready_.clear();
    throw Error({.kind = ErrorKind::resource,
                 .where = path_.string(),
                 .what = problem ? problem.message() : "could not be written to its end",
                 .fix = "see whether the disk is full"});
  }

 private:
  [[noreturn]] void refuse(const char* option, const char* what, const char* fix) const {
    throw Error({.kind = ErrorKind::usage, .where = text(option, " ", path_.string()), .what = what, .fix = fix});
  }

  const std::filesystem::path path_;
  std::filesystem::path unready_;  // until finish(), where it is made; empty: it goes straight to path_
  std::ofstream out_;
};

std::string dtype_of(const store::Reader& reader) {
  const auto found = reader.attributes().find("dtype");
  if (found == reader.attributes().end()) return {};
  const auto* name = std::get_if<std::string>(&found->second);
  return name != nullptr && find_dtype(*name) ? *name : std::string();
}

/// With --blame: in the dtype that the reference was computed in, unless one is given, so that only the model differs.
std::optional<Blame> blame_of(const CompareOptions& options, const compare::Rules& rules,
                              const store::Reader& reference) {
  if (!options.blame) return std::nullopt;
  runtime::RunOptions run = options.run;
  if (run.dtype.empty()) run.dtype = dtype_of(reference);
  if (run.dtype.empty()) run.dtype = "auto";
  ShareDone share_done("running each block by itself");
  return blame_layers(reference, run, rules, [&](double share) { share_done.show(share); });
}

/// Of --model, for the page's tokens. Without one that can be used, tokens are shown by their ids.
std::optional<tokenizer::Tokenizer> tokenizer_of(const CompareOptions& options) {
  if (options.run.model.empty()) return std::nullopt;
  try {
    return runtime::open_tokenizer(weights::Checkpoint::open(options.run.model));
  } catch (const Error& error) {
    std::cerr << "note: the page shows tokens by their ids: "
              << printable(text(error.parts().where, ": ", error.parts().what)) << "\n";
    return std::nullopt;
  }
}

ExitCode run(const CompareOptions& options) {
  const compare::Rules rules = rules_of(options);
  const store::Reader reference(options.reference);
  const store::Reader candidate(options.candidate);
  expect_matches(rules.thresholds, reference, candidate);
  std::optional<store::Reader> baseline;
  if (!options.baseline.empty()) baseline.emplace(options.baseline);
  ReportFile report_file(options.report, "--report");
  ReportFile html_file(options.html, "--html");
  ShareDone share_done("comparing");
  const compare::Report report = compare::compare_runs(
      reference, candidate, rules, [&](double share) { share_done.show(share); }, baseline ? &*baseline : nullptr);
  share_done.finish();
  const std::optional<Blame> blame = blame_of(options, rules, reference);
  const Blame* const blame_or_none = blame ? &*blame : nullptr;
  if (options.json) {
    write_json_lines(std::cout, report, blame_or_none);
  } else {
    print_compared(report);
    if (blame) print_blame(*blame, report);
  }
  if (!options.report.empty()) {
    write_json_lines(report_file.out(), report, blame_or_none);
    report_file.finish();
  }
  if (!options.html.empty()) {
    const std::optional<tokenizer::Tokenizer> tokenizer = tokenizer_of(options);
    TokenText token_text;
    if (tokenizer) token_text = [&](std::int32_t id) { return tokenizer->decode(std::span(&id, 1)); };
    write_html(html_file.out(), report, reference, blame_or_none, token_text);
    html_file.finish();
    if (!options.json) std::cout << "wrote " << printable(options.html.string()) << "\n";
  }
  if (!options.json) std::cout << printable(compare::verdict(report)) << "\n";
  return report.agrees() && (!blame || blame->culprit() == nullptr) ? ExitCode::success : ExitCode::differs;
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
  command->add_flag("--fail-fast", options->fail_fast, "Compare nothing behind the first point that does not agree");
  command
      ->add_option(
          "--allow-skip", options->allow_skip,
          "Which points may be left uncompared, by patterns as --points: any other that is makes the answer no. "
          "Default: all, and they are listed; \"\": none")
      ->type_name("PATTERNS")
      ->take_all()
      ->allow_extra_args(false);
  command
      ->add_option("--baseline", options->baseline,
                   "A correct run in the candidate's dtype: a point agrees up to 1.5 times its error")
      ->type_name("FILE.h5");
  command
      ->add_option("--html", options->html,
                   "Also write one self-contained page; with --model its tokens have their text")
      ->type_name("FILE");
  CLI::Option* blame = command->add_flag(
      "--blame", options->blame,
      "Also run each block of --model by itself, fed what entered it in the reference: whose fault is it?");
  command
      ->add_option("--model", options->run.model,
                   "The model whose blocks --blame runs, whose tokenizer --html uses, and whose routers' biases say by "
                   "how much another choice of experts was missed")
      ->envname("MODEL_PATH")
      ->type_name("PATH");
  options->run.dtype.clear();
  command
      ->add_option("--dtype", options->run.dtype,
                   "What --blame computes in. Default: as the reference did, so that only the model differs")
      ->needs(blame)
      ->type_name("DTYPE");
  command->add_option("--device-map", options->run.device_map, "Where --blame computes")
      ->capture_default_str()
      ->needs(blame)
      ->type_name("DEVICE");
  command->add_option("--report", options->report, "Also write the lines of --json to this file")->type_name("FILE");
  command->add_flag("--json", options->json, "Print a JSON object a line, each with a type");
  command->footer("Exit status: 0 all points agree, 1 some do not, 2 nothing could be compared.");
  command->callback([&chosen, options] { chosen = [options] { return run(*options); }; });
}

}  // namespace layerprobe::cli
