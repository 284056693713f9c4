#include <iostream>
#include <map>

#include "base/probe_point.h"
#include "base/text.h"
#include "cli/compare_output.h"
#include "cli/table.h"

namespace layerprobe::cli {
namespace {

using compare::Difference;
using compare::Report;

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
  bool has_raw = false, has_incomplete = false, has_routes = false;
  for (const Difference& each : report.differences) {
    has_raw = has_raw || each.reference_dtype != each.candidate_dtype;
    has_incomplete = has_incomplete || each.num_incomplete_prompts > 0;
    has_routes = has_routes || (each.by_route && each.by_route->num_rerouted > 0);
  }
  std::vector<Table::Column> columns = {{.name = "point", .align = Table::Align::left}};
  if (has_incomplete) columns.push_back({.name = "prompts"});
  for (const char* name : {"max|ref|", "max_abs", "rel_l2"}) columns.push_back({.name = name});
  if (has_raw) columns.push_back({.name = "raw_rel_l2"});
  const bool has_baseline = report.baseline.has_value();
  if (has_baseline) columns.push_back({.name = "ratio"});
  if (has_routes) {
    for (const char* name : {"same route", "its rel_l2"}) columns.push_back({.name = name});
  }
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
    const bool has_values = !each.routing;  // how far the numbers of experts lie apart says nothing
    cells.push_back(has_values ? error_text(each.rel_l2) : "-");
    if (has_raw) cells.push_back(has_values ? error_text(each.raw_rel_l2) : "-");
    if (has_baseline) cells.push_back(each.ratio ? number_text(*each.ratio) : "-");
    if (has_routes) {
      const bool is_split = each.by_route && each.num_rows > 0 && has_values;
      const double rows = static_cast<double>(each.num_rows);
      cells.push_back(is_split ? fixed_text(100 * static_cast<double>(each.by_route->num_same) / rows, 1) + " %" : "-");
      cells.push_back(is_split ? error_text(each.by_route->same_rel_l2) : "-");
    }
    cells.push_back(has_values ? fixed_text(each.cosine, 6) : "-");
    cells.push_back(each.added ? error_text(*each.added) : "-");
    cells.push_back(has_values && each.worst_token
                        ? token_text(each.worst_token->token) + " " + error_text(each.worst_token->rel_l2)
                        : "-");
    const bool has_non_finite = non_finite(each.reference_non_finite) + non_finite(each.candidate_non_finite) > 0;
    cells.push_back(has_non_finite
                        ? text(non_finite(each.reference_non_finite), " and ", non_finite(each.candidate_non_finite))
                        : "-");
    const bool begins_here = report.finding && report.finding->point == each.point;
    cells.push_back(text(!each.agrees ? "FAIL" : each.bit_equal ? "same" : "ok", begins_here ? "  <--- HERE" : ""));
    table.add_row(std::move(cells));
  }
  std::cout << "\n" << table << "\n";
}

/// What leaves the block whose experts were chosen there; nullptr where that was not compared.
const Difference* output_of_block(const Report& report, int layer) {
  for (const Difference& each : report.differences) {
    if (semantics_of(each.point) == "residual_after_block" && layer_of(each.point) == layer) return &each;
  }
  return nullptr;
}

/// The routers that chose otherwise, one a line.
void print_routing(const Report& report) {
  Table table({{.name = "router"},
               {.name = "experts"},
               {.name = "other experts"},
               {.name = "overlap"},
               {.name = "unexplained"},
               {.name = "margin p50"},
               {.name = "max"},
               {.name = "at", .align = Table::Align::left},
               {.name = "weights"},
               {.name = "block: same"},
               {.name = "rerouted"}});
  std::int64_t num_routers = 0;
  for (const Difference& each : report.differences) {
    if (!each.routing) continue;
    ++num_routers;
    const compare::RoutingDifference& routing = *each.routing;
    if (routing.num_rerouted == 0) continue;
    const Difference* const block = output_of_block(report, layer_of(each.point));
    const bool is_split = block != nullptr && block->by_route;
    table.add_row({text("layer ", layer_of(each.point)),
                   routing.num_experts > 0 ? text(routing.num_experts_per_tok, " of ", routing.num_experts)
                                           : std::to_string(routing.num_experts_per_tok),
                   fixed_text(100 * routing.rerouted(), 2) + " %", fixed_text(100 * routing.overlap, 2) + " %",
                   routing.knows_margins ? std::to_string(routing.num_unexplained) : "-",
                   routing.knows_margins ? number_text(routing.margin_p50) : "-",
                   routing.knows_margins ? number_text(routing.margin_max) : "-",
                   routing.margin_max_at ? token_text(*routing.margin_max_at) : "-",
                   routing.weights_rel_l2 ? error_text(*routing.weights_rel_l2) : "-",
                   is_split ? error_text(block->by_route->same_rel_l2) : "-",
                   is_split ? error_text(block->by_route->rerouted_rel_l2) : "-"});
  }
  if (num_routers == 0) return;
  const auto others = static_cast<std::int64_t>(table.num_rows());
  std::cout << "routing: " << num_routers - others << " of " << counted(num_routers, "router")
            << " sent every token to the same experts\n";
  if (others > 0) std::cout << "\n" << table << "\n";
}

/// The distributions over the next token: one line.
void print_logits(const Report& report) {
  for (const Difference& each : report.differences) {
    if (!each.logits) continue;
    const compare::LogitsDifference& logits = *each.logits;
    std::cout << printable(each.point) << ": the same most likely token in " << logits.num_same_top1 << " of "
              << counted(logits.num_rows, "row") << ", " << fixed_text(100 * logits.top_k_overlap, 2) << " % of the "
              << logits.top_k << " most likely; KL mean " << error_text(logits.kl_mean) << ", p99 "
              << error_text(logits.kl_p99) << ", max " << error_text(logits.kl_max);
    if (logits.kl_max_at) std::cout << " at " << token_text(*logits.kl_max_at);
    if (logits.gap_max_at) {
      std::cout << "; where the most likely differs, the reference's lies above its next by "
                << number_text(logits.gap_p50) << " in the median, at most " << number_text(logits.gap_max) << " at "
                << token_text(*logits.gap_max_at);
    }
    if (logits.num_left_out > 0) {
      std::cout << "; " << counted(logits.num_left_out, "row") << " left out: NaN or infinite";
    }
    std::cout << "\n";
  }
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
  if (shown->max_abs_at && !shown->routing) {
    const compare::Element& at = *shown->max_abs_at;
    std::cout << "largest difference in " << printable(shown->point) << ": " << number_text(shown->max_abs) << " at "
              << token_text(at.token) << ", channel " << at.channel << ": " << exact_text(at.candidate)
              << " where the reference has " << exact_text(at.reference) << "\n";
  }
}

}  // namespace

void print_compared(const Report& report) {
  print_side("reference", report.reference);
  print_side("candidate", report.candidate);
  if (report.baseline) print_side("baseline ", *report.baseline);
  if (!report.prompt_order.empty()) {
    std::cout << "prompts    paired by their tokens: the candidate has " << report.prompt_order << "\n";
  }
  print_rounding(report);
  print_table(report);
  print_routing(report);
  print_logits(report);
  print_notes(report);
}

void print_blame(const Blame& blame, const Report& report) {
  std::map<int, const Difference*> in_candidate;
  for (const Difference& each : report.differences) {
    if (semantics_of(each.point) == "residual_after_block") in_candidate[layer_of(each.point)] = &each;
  }
  Table table({{.name = "layer"},
               {.name = "own rel_l2"},
               {.name = "limit"},
               {.name = "candidate's rel_l2"},
               {.name = "own", .align = Table::Align::left},
               {.name = "first point over its limit", .align = Table::Align::left}});
  for (const Blame::Layer& each : blame.layers) {
    const auto found = in_candidate.find(each.layer);
    table.add_row({std::to_string(each.layer), error_text(each.own_error()),
                   each.differences.empty() ? "-" : error_text(each.differences.back().max_rel_l2),
                   found == in_candidate.end() ? "-" : error_text(found->second->rel_l2), each.agrees() ? "ok" : "FAIL",
                   each.finding ? text(each.finding->point, &each == blame.culprit() ? "  <--- HERE" : "") : "-"});
  }
  std::cout << "each block by itself, fed what entered it in the reference:\n\n" << table << "\n";
  for (const std::string& each : blame.skipped) std::cout << "not run: " << each << "\n";
  std::cout << "blame: " << printable(blame_sentence(blame, report)) << "\n";
}

}  // namespace layerprobe::cli
