#include "compare/compare.h"

#include <cmath>
#include <filesystem>
#include <iostream>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/json.h"
#include "base/probe_point.h"
#include "base/text.h"
#include "cli/command.h"
#include "cli/share_done.h"
#include "cli/table.h"
#include "store/reader.h"

namespace layerprobe::cli {
namespace {

using compare::Difference;
using compare::Report;

struct CompareOptions {
  std::filesystem::path reference;
  std::filesystem::path candidate;
  std::optional<double> max_rel_l2;
  bool exact = false;
  std::vector<std::string> points;
  bool json = false;
};

std::string token_text(const compare::Token& token) {
  return text("p", token.prompt, token.token < 0 ? std::string(" mean") : text(" t", token.token));
}

std::string dtypes_text(const Difference& difference) {
  return text(name_of(difference.reference_dtype), " and ", name_of(difference.candidate_dtype));
}

std::string counted(std::int64_t count, const char* noun) { return text(count, " ", noun, count == 1 ? "" : "s"); }

void print_side(const char* what, const compare::Side& side) {
  std::cout << what << "  " << printable(side.path.string());
  if (!side.model.empty()) std::cout << ", " << printable(side.model);
  if (!side.dtype.empty()) std::cout << ", " << printable(side.dtype);
  std::cout << ": " << counted(side.num_points, "point") << ", " << counted(side.num_prompts, "prompt") << ", "
            << counted(side.num_rows, "row") << (side.is_finished ? "" : " (partial file)") << "\n";
}

/// How many differences of which dtypes: one line each.
void print_rounding(const Report& report) {
  std::map<std::string, std::pair<std::string_view, int>> judged;
  for (const Difference& difference : report.differences) {
    if (difference.reference_dtype == difference.candidate_dtype) continue;
    auto& [dtype, count] = judged[dtypes_text(difference)];
    dtype = name_of(difference.judged_dtype);
    ++count;
  }
  for (const auto& [dtypes, rounded] : judged) {
    std::cout << "dtypes     " << dtypes << ": judged after rounding both to " << rounded.first
              << "; raw_rel_l2 is without\n";
  }
}

void print_table(const Report& report) {
  bool has_raw = false, has_incomplete = false;
  for (const Difference& each : report.differences) {
    has_raw = has_raw || each.reference_dtype != each.candidate_dtype;
    has_incomplete = has_incomplete || each.num_incomplete_prompts > 0;
  }
  std::vector<Table::Column> columns = {{.name = "point", .align = Table::Align::left}};
  if (has_incomplete) columns.push_back({.name = "prompts"});
  for (const char* name : {"max|ref|", "max_abs", "rel_l2"}) columns.push_back({.name = name});
  if (has_raw) columns.push_back({.name = "raw_rel_l2"});
  for (const char* name : {"cosine", "added"}) columns.push_back({.name = name});
  columns.push_back({.name = "worst token", .align = Table::Align::left});
  columns.push_back({.name = "NaN", .align = Table::Align::left});
  columns.push_back({.name = "status", .align = Table::Align::left});
  Table table(std::move(columns));
  const auto non_finite = [](const compare::NonFinite& count) { return count.nan + count.inf; };
  for (const Difference& each : report.differences) {
    std::vector<std::string> cells = {each.point};
    if (has_incomplete) cells.push_back(std::to_string(each.num_prompts));
    cells.push_back(number_text(each.max_abs_reference));
    cells.push_back(number_text(each.max_abs));
    cells.push_back(error_text(each.rel_l2));
    if (has_raw) cells.push_back(error_text(each.raw_rel_l2));
    cells.push_back(fixed_text(each.cosine, 6));
    cells.push_back(each.added ? error_text(*each.added) : "-");
    cells.push_back(each.worst_token ? token_text(each.worst_token->token) + " " + error_text(each.worst_token->rel_l2)
                                     : "-");
    const bool has_non_finite = non_finite(each.reference_non_finite) + non_finite(each.candidate_non_finite) > 0;
    cells.push_back(has_non_finite
                        ? text(non_finite(each.reference_non_finite), " and ", non_finite(each.candidate_non_finite))
                        : "-");
    cells.push_back(!each.agrees ? "FAIL" : each.bit_equal ? "same" : "ok");
    table.add_row(std::move(cells));
  }
  std::cout << "\n" << table << "\n";
}

/// The names, an unbroken run of layers as "model.layers.0 to 29".
std::string names_text(const std::vector<std::string>& names) {
  const auto is_layer = [](const std::string& name) { return name.ends_with(text(".layers.", layer_of(name))); };
  std::string out;
  for (std::size_t i = 0; i < names.size();) {
    std::size_t end = i + 1;
    while (end < names.size() && is_layer(names[i]) && is_layer(names[end]) &&
           layer_of(names[end]) == layer_of(names[end - 1]) + 1) {
      ++end;
    }
    out += (i == 0 ? "" : ", ") + names[i];
    if (end > i + 1) out += text(" to ", layer_of(names[end - 1]));
    i = end;
  }
  return printable(out);
}

/// What was left out, and where the largest difference lies.
void print_notes(const Report& report) {
  std::map<std::string, std::vector<std::string>> names_by_reason;
  for (const compare::NotCompared& each : report.not_compared) names_by_reason[each.reason].push_back(each.point);
  for (const auto& [reason, names] : names_by_reason) {
    std::cout << "not compared: " << reason << ": " << names_text(names) << "\n";
  }
  for (const auto& [side, name] :
       {std::pair(&report.reference, "reference"), std::pair(&report.candidate, "candidate")}) {
    if (side->num_prompts > report.num_prompts) {
      std::cout << "not compared: " << counted(side->num_prompts - report.num_prompts, "prompt") << " from prompt "
                << report.num_prompts << " on: only in the " << name << "\n";
    }
    if (side->num_rows > report.num_rows) {
      std::cout << "not compared: " << counted(side->num_rows - report.num_rows, "row") << ": only in the " << name
                << "\n";
    }
  }
  for (const Difference& each : report.differences) {
    if (each.num_incomplete_prompts == 0) continue;
    std::cout << "not compared: prompts that are incomplete in a partial file (" << each.num_incomplete_prompts
              << " of " << printable(each.point) << ", see the column prompts)\n";
    break;
  }
  const Difference* shown = report.first_divergence();
  if (shown == nullptr) return;
  if (shown->max_abs_at) {
    const compare::Element& at = *shown->max_abs_at;
    std::cout << "largest difference in " << printable(shown->point) << ": " << number_text(shown->max_abs) << " at "
              << token_text(at.token) << ", channel " << at.channel << ": " << exact_text(at.candidate)
              << " where the reference has " << exact_text(at.reference) << "\n";
  }
}

Json json_of(const compare::Token& token) {
  Json out;
  out.set("prompt", token.prompt);
  out.set("token", token.token);
  return out;
}

Json json_of(const std::optional<compare::Element>& element) {
  if (!element) return nullptr;
  Json out = json_of(element->token);
  out.set("channel", element->channel);
  out.set("reference", element->reference);
  out.set("candidate", element->candidate);
  return out;
}

Json json_of(const compare::NonFinite& count) {
  Json out;
  out.set("nan", count.nan);
  out.set("inf", count.inf);
  return out;
}

Json json_of(const compare::Side& side) {
  Json out;
  out.set("path", side.path.string());
  out.set("is_finished", side.is_finished);
  out.set("model", side.model);
  out.set("dtype", side.dtype);
  out.set("num_prompts", side.num_prompts);
  out.set("num_rows", side.num_rows);
  out.set("num_points", side.num_points);
  return out;
}

Json json_of(const Difference& difference) {
  Json out;
  out.set("point", difference.point);
  out.set("reference_dtype", name_of(difference.reference_dtype));
  out.set("candidate_dtype", name_of(difference.candidate_dtype));
  out.set("judged_dtype", name_of(difference.judged_dtype));
  out.set("width", difference.width);
  out.set("num_prompts", difference.num_prompts);
  out.set("num_incomplete_prompts", difference.num_incomplete_prompts);
  out.set("num_rows", difference.num_rows);
  out.set("max_abs_reference", difference.max_abs_reference);
  out.set("max_abs", difference.max_abs);
  out.set("max_abs_at", json_of(difference.max_abs_at));
  out.set("rel_l2", difference.rel_l2);
  out.set("raw_rel_l2", difference.raw_rel_l2);
  out.set("cosine", difference.cosine);
  Json worst;
  if (difference.worst_token) {
    worst = json_of(difference.worst_token->token);
    worst.set("rel_l2", difference.worst_token->rel_l2);
  }
  out.set("worst_token", worst);
  out.set("added", difference.added ? Json(*difference.added) : Json());
  out.set("reference_non_finite", json_of(difference.reference_non_finite));
  out.set("candidate_non_finite", json_of(difference.candidate_non_finite));
  out.set("unmatched_non_finite", difference.unmatched_non_finite);
  out.set("first_unmatched", json_of(difference.first_unmatched));
  out.set("bit_equal", difference.bit_equal);
  out.set("max_rel_l2", difference.max_rel_l2);
  out.set("agrees", difference.agrees);
  return out;
}

Json json_of(const Report& report) {
  Json out;
  out.set("reference", json_of(report.reference));
  out.set("candidate", json_of(report.candidate));
  out.set("num_prompts", report.num_prompts);
  out.set("num_rows", report.num_rows);
  Json differences = Json::Array{};
  for (const Difference& each : report.differences) differences.push(json_of(each));
  out.set("differences", std::move(differences));
  Json not_compared = Json::Array{};
  for (const compare::NotCompared& each : report.not_compared) {
    Json item;
    item.set("point", each.point);
    item.set("reason", each.reason);
    item.set("differs", each.differs);
    not_compared.push(std::move(item));
  }
  out.set("not_compared", std::move(not_compared));
  out.set("agrees", report.agrees());
  const Difference* first = report.first_divergence();
  out.set("first_divergence", first == nullptr ? Json() : Json(first->point));
  out.set("passing_max_rel_l2", report.passing_max_rel_l2());
  out.set("verdict", compare::verdict(report));
  return out;
}

compare::Rules rules_of(const CompareOptions& options) {
  if (options.max_rel_l2 && !(*options.max_rel_l2 >= 0)) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--max-rel-l2",
                 .what = text(*options.max_rel_l2, " is not a number from 0 on"),
                 .fix = "give the largest relative error that agrees, as 1e-2"});
  }
  compare::Rules rules = {.max_rel_l2 = options.max_rel_l2, .exact = options.exact, .points = {}};
  for (const std::string& list : options.points) {
    for (const std::string& pattern : split(list, ',')) rules.points.emplace_back(trimmed(pattern));
  }
  return rules;
}

ExitCode run(const CompareOptions& options) {
  const compare::Rules rules = rules_of(options);
  const store::Reader reference(options.reference);
  const store::Reader candidate(options.candidate);
  ShareDone share_done("comparing");
  const Report report =
      compare::compare_runs(reference, candidate, rules, [&](double share) { share_done.show(share); });
  share_done.finish();
  if (options.json) {
    std::cout << json_of(report).dump(2) << "\n";
  } else {
    print_side("reference", report.reference);
    print_side("candidate", report.candidate);
    print_rounding(report);
    print_table(report);
    print_notes(report);
    std::cout << printable(compare::verdict(report)) << "\n";
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
      "dtype, bfloat16 and float16 1e-2, float32 1e-5, float64 1e-12");
  command->add_flag("--exact", options->exact, "Only the same bits agree");
  command
      ->add_option("--points", options->points,
                   "Points to compare, by patterns; comma or repetition; * stops at a dot, ** does not. Default: all")
      ->allow_extra_args(false);
  command->add_flag("--json", options->json, "Print one JSON document");
  command->footer("Exit status: 0 all points agree, 1 some do not, 2 nothing could be compared.");
  command->callback([&chosen, options] { chosen = [options] { return run(*options); }; });
}

}  // namespace layerprobe::cli
