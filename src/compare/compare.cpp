#include "compare/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string_view>
#include <type_traits>
#include <utility>
#include <variant>

#include "base/error.h"
#include "base/text.h"
#include "compare/align.h"
#include "compare/origin.h"
#include "compare/point_difference.h"
#include "compare/routing.h"
#include "compare/row_comparer.h"

namespace layerprobe::compare {
namespace {

using Names = std::map<std::string, std::size_t>;  // canonical name to index into Reader::points()

Names names_of(const store::Reader& reader) {
  Names names;
  for (std::size_t i = 0; i < reader.points().size(); ++i) {
    names.emplace(canonical_name(reader.points()[i].point.name), i);
  }
  return names;
}

std::string text_of(const store::Attributes::mapped_type& value) {
  return std::visit(
      [](const auto& each) {
        if constexpr (std::is_same_v<std::decay_t<decltype(each)>, std::string>) {
          return each;
        } else {
          return text(each);
        }
      },
      value);
}

/// An attribute of the file; "" when it has none of that name or it is no string.
std::string attribute_of(const store::Reader& reader, const char* name) {
  const auto found = reader.attributes().find(name);
  if (found == reader.attributes().end()) return {};
  const auto* value = std::get_if<std::string>(&found->second);
  return value == nullptr ? std::string() : *value;
}

Side side_of(const store::Reader& reader) {
  Side side = {.path = reader.path(),
               .is_finished = reader.is_finished(),
               .model = attribute_of(reader, "model"),
               .dtype = attribute_of(reader, "dtype"),
               .num_prompts = reader.prompts().num_prompts(),
               .num_rows = reader.rows().num_rows(),
               .num_points = static_cast<std::int64_t>(reader.points().size())};
  for (const auto& [name, value] : reader.attributes()) side.attributes.emplace_back(name, text_of(value));
  return side;
}

/// Which points the patterns choose. Throws Error(usage) for one that chooses none.
class Selection {
 public:
  Selection(const std::vector<std::string>& patterns, const Names& reference, const Names& candidate)
      : patterns_(patterns) {
    std::vector<std::string> all;
    for (const Names* names : {&reference, &candidate}) {
      for (const auto& [name, index] : *names) all.push_back(name);
    }
    for (const std::string& pattern : patterns) {
      if (std::any_of(all.begin(), all.end(), [&](const std::string& name) { return chooses(pattern, name); }))
        continue;
      const std::vector<std::string> nearest = nearest_names(pattern, all);
      throw Error({.kind = ErrorKind::usage,
                   .where = "--points",
                   .what = text("no point of either file matches \"", pattern, "\""),
                   .fix = nearest.empty() ? std::string("layerprobe inspect lists the points of a file")
                                          : "did you mean " + join(nearest, " or ") + "?"});
    }
  }

  bool has(const std::string& name) const {
    return patterns_.empty() || std::any_of(patterns_.begin(), patterns_.end(),
                                            [&](const std::string& pattern) { return chooses(pattern, name); });
  }

 private:
  static bool chooses(const std::string& pattern, const std::string& name) {
    return matches(canonical_name(pattern), name);
  }

  const std::vector<std::string>& patterns_;
};

/// Why two points of one name cannot be compared; nothing when they can.
std::optional<NotCompared> obstacle(const store::Layout::Point& reference, const store::Layout::Point& candidate) {
  const ProbePoint& r = reference.point;
  const ProbePoint& c = candidate.point;
  if (r.width != c.width) {
    return NotCompared{
        .point = r.name, .reason = text("width is ", c.width, " where the reference has ", r.width), .differs = true};
  }
  if ((r.dtype == Dtype::i32) != (c.dtype == Dtype::i32)) {
    return NotCompared{.point = r.name,
                       .reason = text("dtype is ", name_of(c.dtype), " where the reference has ", name_of(r.dtype)),
                       .differs = true};
  }
  if (!reference.stored) return NotCompared{.point = r.name, .reason = "the reference has only its statistics"};
  if (!candidate.stored) return NotCompared{.point = r.name, .reason = "the candidate has only its statistics"};
  return std::nullopt;
}

/// How many blocks a point's value went through: its own counts where it is inside one.
std::int64_t blocks_before(const std::string& name, std::int64_t num_layers) {
  const int layer = layer_of(name);
  if (layer >= 0) return layer + 1;
  return semantics_of(canonical_name(name)) == "embedding" ? 0 : num_layers;
}

/// What a module makes of the residual stream, in the block or behind the last: smaller values, and no sum that carries
/// most of what came in.
bool is_inside(const std::string& name) {
  const std::string_view semantics = semantics_of(canonical_name(name));
  return semantics == "module_output" || semantics == "module_input" || semantics == "logits";
}

double rounding_of(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 0x1p-53;
    case Dtype::f32:
      return 0x1p-24;
    case Dtype::f16:
      return 0x1p-11;
    case Dtype::bf16:
      return 0x1p-8;
    case Dtype::i32:
      return 0;
  }
  return 0;
}

/// Decides whether a difference agrees, and says by which rule.
class Judge {
 public:
  Judge(const store::Reader& reference, const store::Reader& candidate, const Rules& rules)
      : reference_(reference), candidate_(candidate), rules_(rules) {
    for (const store::Layout::Point& each : reference.points()) {
      num_layers_ = std::max<std::int64_t>(num_layers_, layer_of(each.point.name) + 1);
    }
  }

  void judge(Difference& difference) const {
    if (rules_.exact) {
      difference.rule = "--exact";
      difference.agrees = difference.bit_equal;
      return;
    }
    const bool is_matched = difference.unmatched_non_finite == 0;
    const std::string name = canonical_name(difference.point);
    for (const Threshold& each : rules_.thresholds) {
      if (!matches(canonical_name(each.pattern), name)) continue;
      difference.rule = text("--threshold '", each.pattern, ": ", each.expression, "'");
      difference.agrees = is_matched && each.holds_for(difference);
      return;
    }
    if (difference.routing) return judge_routing(difference);
    if (difference.judged_dtype == Dtype::i32) {
      difference.rule = "integers are equal";
      difference.agrees = is_matched && difference.rel_l2 == 0;
      return;
    }
    if (rules_.max_rel_l2) {
      difference.max_rel_l2 = *rules_.max_rel_l2;
      difference.rule = "--max-rel-l2";
    } else if (difference.baseline_rel_l2) {
      // Half a unit in the last place is nothing that a baseline has to have shown.
      const double floor = rounding_of(computed(difference)) / 2;
      difference.max_rel_l2 = std::max(kMaxRatio * *difference.baseline_rel_l2, floor);
      difference.max_without_massive = std::max(kMaxRatio * *difference.baseline_without_massive, floor);
      difference.rule = text("1.5 x the baseline's ", rel_l2_text(*difference.baseline_rel_l2));
    } else {
      const std::int64_t blocks = rules_.is_one_block ? 1 : std::max<std::int64_t>(1, blocks_before(name, num_layers_));
      const Dtype dtype = computed(difference);
      difference.max_rel_l2 = default_max_rel_l2(dtype) * std::sqrt(static_cast<double>(blocks));
      difference.rule = text(rel_l2_text(default_max_rel_l2(dtype)), " of ", name_of(dtype));
      if (rules_.is_one_block) {
        difference.max_rel_l2 *= 2;
        difference.rule += " x 2 for one block";
      }
      if (blocks > 1) difference.rule += text(" x sqrt(", blocks, " blocks)");
      if (is_inside(name)) {
        difference.max_rel_l2 *= 2;
        difference.rule += " x 2 inside a block";
      }
      difference.max_without_massive = difference.max_rel_l2;
    }
    difference.agrees =
        is_matched && difference.judged_rel_l2() <= difference.max_rel_l2 &&  // false for a NaN
        (!difference.max_without_massive || difference.rel_l2_without_massive <= *difference.max_without_massive);
  }

 private:
  /// Other experts than the reference's are no error by themselves: a router decides between logits that may be as near
  /// to each other as one likes. What a token's own logits explain is theirs to answer for.
  void judge_routing(Difference& difference) const {
    RoutingDifference& routing = *difference.routing;
    if (routing.num_rerouted == 0) {
      difference.rule = "the same experts";
      difference.agrees = true;
      return;
    }
    if (routing.knows_margins) {
      difference.rule = "other experts only where the candidate's router logits say so";
      difference.agrees = routing.num_unexplained == 0;
      return;
    }
    if (routing.baseline_rerouted) {
      routing.max_rerouted = kMaxRatio * *routing.baseline_rerouted;
      difference.rule = text("1.5 x the baseline's share of tokens with other experts");
      difference.agrees = routing.rerouted() <= routing.max_rerouted;
      return;
    }
    // Nothing says by how much the choice was missed: one in ten choices at bfloat16's rounding, and as many fewer as
    // another dtype's is finer.
    const std::int64_t blocks =
        rules_.is_one_block ? 1 : std::max<std::int64_t>(1, blocks_before(difference.point, num_layers_));
    const Dtype dtype = narrower(computed_by(reference_, Dtype::f64), computed_by(candidate_, Dtype::f64));
    const double limit = 10 * default_max_rel_l2(dtype) * std::sqrt(static_cast<double>(blocks));
    difference.rule =
        text("10 x ", rel_l2_text(default_max_rel_l2(dtype)), " of ", name_of(dtype), " as share of other choices");
    if (blocks > 1) difference.rule += text(" x sqrt(", blocks, " blocks)");
    difference.agrees = 1 - routing.overlap <= limit;
  }

  static Dtype computed_by(const store::Reader& reader, Dtype otherwise) {
    return find_dtype(attribute_of(reader, "dtype")).value_or(otherwise);
  }

  /// The dtype that the runs computed in, from the files' attributes: it bounds what their f32 means and gates agree
  /// to.
  Dtype computed(const Difference& difference) const {
    const Dtype stored = difference.judged_dtype;
    return narrower(narrower(computed_by(reference_, stored), computed_by(candidate_, stored)), stored);
  }

  const store::Reader& reference_;
  const store::Reader& candidate_;
  const Rules& rules_;
  std::int64_t num_layers_ = 0;
};

/// Some tokens went to other experts, and some did not; or it is the weights, which belong to experts.
bool has_same_route(const Difference& difference) {
  return difference.by_route && difference.by_route->num_same > 0 && difference.judged_dtype != Dtype::i32 &&
         (difference.by_route->num_rerouted > 0 || canonical_name(difference.point).ends_with(":topk_weights"));
}

struct BaselineError {
  double rel_l2, without_massive;
  std::optional<double> rerouted;
};

/// Both runs at one point behind the routers that came before: who was rerouted is known, and whether the tokens that
/// were not decide.
Difference behind_routers(Routes& routes, const store::Reader& reference, std::size_t reference_point,
                          const store::Reader& candidate, std::size_t candidate_point, const Alignment::Shared& shared,
                          const std::function<void(std::int64_t)>& rows_done, std::map<std::string, double>& weights,
                          Heatmap* heatmap = nullptr) {
  const std::string name = canonical_name(reference.points()[reference_point].point.name);
  std::optional<RoutingDifference> routing = routes.follow(name);
  Difference difference = difference_of(reference, reference_point, candidate, candidate_point, shared, rows_done,
                                        heatmap, routes.rerouted());
  if (routing) {
    if (routing->weights_rel_l2) weights[*experts_of_indices(name) + ":topk_weights"] = *routing->weights_rel_l2;
    difference.routing = std::move(routing);
  }
  // Of weights in another order those of the same expert belong together.
  if (const auto found = weights.find(name); found != weights.end() && difference.by_route) {
    difference.by_route->same_rel_l2 = difference.rel_l2_without_massive = found->second;
  }
  return difference;
}

/// The baseline's error at each point, by canonical name. Its own rows count: all of them that the reference has.
std::map<std::string, BaselineError> errors_of(const store::Reader& reference, const store::Reader& baseline,
                                               const Names& reference_names, const Selection& selection,
                                               const SelectionBias& selection_bias,
                                               const std::function<void(double)>& progress) {
  const Alignment alignment(reference, baseline);
  const Names baseline_names = names_of(baseline);
  Routes routes(reference, reference_names, baseline, baseline_names, alignment, selection_bias);
  std::map<std::string, double> weights;
  std::map<std::string, BaselineError> errors;
  std::size_t done = 0;
  for (std::size_t i = 0; i < baseline.points().size(); ++i) {
    if (progress) progress(static_cast<double>(done++) / static_cast<double>(baseline.points().size()));
    const std::string name = canonical_name(baseline.points()[i].point.name);
    const auto found = reference_names.find(name);
    if (!selection.has(name) || found == reference_names.end()) continue;
    if (obstacle(reference.points()[found->second], baseline.points()[i])) continue;
    const Alignment::Shared shared = alignment.rows_of(found->second, i);
    if (shared.num_rows == 0) continue;
    Difference error = behind_routers(
        routes, reference, found->second, baseline, i, shared, [](std::int64_t) {}, weights);
    error.judges_same_route = has_same_route(error);
    BaselineError& out = errors[name];
    out = {.rel_l2 = error.judged_rel_l2(), .without_massive = error.rel_l2_without_massive, .rerouted = {}};
    if (error.routing) out.rerouted = error.routing->rerouted();
  }
  return errors;
}

Error nothing_in_common(const Report& report) {
  const bool is_by_name = std::all_of(report.not_compared.begin(), report.not_compared.end(),
                                      [](const auto& each) { return each.reason.starts_with("only in"); });
  const std::string first = report.not_compared.empty()
                                ? std::string("none at all")
                                : text(report.not_compared.front().point, " is ", report.not_compared.front().reason);
  return Error({.kind = ErrorKind::input,
                .where = report.candidate.path.string(),
                .what = is_by_name
                            ? text("no point has the same name as one of ", report.reference.path.string(), "; ", first)
                            : text("no point can be compared with ", report.reference.path.string(), "; of ",
                                   report.not_compared.front().point, ": ", report.not_compared.front().reason),
                .fix = "layerprobe inspect lists the points of a file and what is complete"});
}

}  // namespace

double default_max_rel_l2(Dtype dtype) {
  switch (dtype) {
    case Dtype::f64:
      return 1e-12;
    case Dtype::f32:
      return 1e-5;
    case Dtype::f16:
      return 1e-2;
    case Dtype::bf16:
      return 1e-2;
    case Dtype::i32:
      return 0;
  }
  return 0;
}

bool Report::agrees() const {
  return first_divergence() == nullptr &&
         std::none_of(not_compared.begin(), not_compared.end(),
                      [](const NotCompared& each) { return each.differs || each.is_missed; });
}

const Difference* Report::first_divergence() const {
  const auto found =
      std::find_if(differences.begin(), differences.end(), [](const auto& each) { return !each.agrees; });
  return found == differences.end() ? nullptr : &*found;
}

double Report::passing_max_rel_l2() const {
  double most = 0;
  for (const Difference& difference : differences) {
    const double error = difference.judged_rel_l2();
    if (difference.unmatched_non_finite == 0 && (error == 0 || (difference.routing && difference.agrees))) continue;
    const bool could_pass =
        difference.unmatched_non_finite == 0 && difference.judged_dtype != Dtype::i32 && std::isfinite(error);
    most = std::max(most, could_pass ? error : std::numeric_limits<double>::infinity());
  }
  return most;
}

Report compare_runs(const store::Reader& reference, const store::Reader& candidate, const Rules& rules,
                    const std::function<void(double)>& progress, const store::Reader* baseline) {
  const Names reference_names = names_of(reference);
  const Names candidate_names = names_of(candidate);
  const Selection selection(rules.points, reference_names, candidate_names);
  const Alignment alignment(reference, candidate);
  Report report;
  report.reference = side_of(reference);
  report.candidate = side_of(candidate);
  report.num_prompts = alignment.num_prompts();
  report.num_rows = alignment.num_rows();
  report.prompt_order = alignment.prompt_order();
  report.rows = alignment.runs();
  report.rules = rules;

  struct Pair {
    std::size_t reference_point, candidate_point;
    std::int64_t width;
  };
  std::vector<Pair> pairs;
  std::int64_t total_width = 0;
  for (std::size_t i = 0; i < reference.points().size(); ++i) {
    const store::Layout::Point& point = reference.points()[i];
    const std::string name = canonical_name(point.point.name);
    if (!selection.has(name)) continue;
    const auto found = candidate_names.find(name);
    if (found == candidate_names.end()) {
      report.not_compared.push_back({.point = point.point.name, .reason = "only in the reference"});
    } else if (std::optional<NotCompared> why = obstacle(point, candidate.points()[found->second])) {
      report.not_compared.push_back(std::move(*why));
    } else {
      pairs.push_back({.reference_point = i, .candidate_point = found->second, .width = point.point.width});
      total_width += point.point.width;
    }
  }
  for (const store::Layout::Point& point : candidate.points()) {
    const std::string name = canonical_name(point.point.name);
    if (!selection.has(name) || reference_names.contains(name)) continue;
    report.not_compared.push_back({.point = point.point.name, .reason = "only in the candidate"});
  }

  const double baseline_share = baseline == nullptr ? 0 : 0.5;
  std::map<std::string, BaselineError> baseline_errors;
  if (baseline != nullptr) {
    report.baseline = side_of(*baseline);
    baseline_errors =
        errors_of(reference, *baseline, reference_names, selection, rules.selection_bias, [&](double share) {
          if (progress) progress(share * baseline_share);
        });
  }
  const Judge judge(reference, candidate, rules);
  Routes routes(reference, reference_names, candidate, candidate_names, alignment, rules.selection_bias);
  std::map<std::string, double> weights;
  bool do_routes_agree = true, is_over = false;
  std::int64_t width_done = 0;
  for (const Pair& pair : pairs) {
    const Alignment::Shared shared = alignment.rows_of(pair.reference_point, pair.candidate_point);
    if (is_over) {
      report.not_compared.push_back({.point = reference.points()[pair.reference_point].point.name,
                                     .reason = "behind the first that does not agree (--fail-fast)"});
    } else if (shared.num_rows == 0) {
      report.not_compared.push_back({.point = reference.points()[pair.reference_point].point.name,
                                     .reason = "no prompt is complete in both files"});
    } else {
      std::int64_t rows_done = 0;
      const auto advance = [&](std::int64_t rows) {
        rows_done += rows;
        const double share = static_cast<double>(rows_done) / static_cast<double>(shared.num_rows);
        const double done = static_cast<double>(width_done) + share * static_cast<double>(pair.width);
        const double share_done = done / static_cast<double>(std::max<std::int64_t>(1, total_width));
        if (progress) progress(baseline_share + (1 - baseline_share) * share_done);
      };
      Heatmap heatmap(shared.num_rows);
      Difference difference = behind_routers(routes, reference, pair.reference_point, candidate, pair.candidate_point,
                                             shared, advance, weights, &heatmap);
      difference.judges_same_route = do_routes_agree && has_same_route(difference);
      if (const auto found = baseline_errors.find(canonical_name(difference.point)); found != baseline_errors.end()) {
        difference.baseline_rel_l2 = found->second.rel_l2;
        difference.baseline_without_massive = found->second.without_massive;
        const double error = difference.judged_rel_l2();
        difference.ratio = error == 0 ? 0.0 : error / found->second.rel_l2;
        if (difference.routing) difference.routing->baseline_rerouted = found->second.rerouted;
      }
      judge.judge(difference);
      if (difference.judges_same_route && !rules.exact) {
        difference.rule += text(", of the ", difference.by_route->num_same, " tokens with the same experts");
      }
      if (rules.fail_fast && !difference.agrees) is_over = true;
      do_routes_agree = do_routes_agree && (!difference.routing || difference.agrees);
      report.heatmaps.push_back(std::move(heatmap));
      report.differences.push_back(std::move(difference));
    }
    width_done += pair.width;
  }
  for (NotCompared& each : report.not_compared) {
    if (!rules.allow_skip || is_over) break;
    each.is_missed = std::ranges::none_of(*rules.allow_skip, [&](const std::string& pattern) {
      return matches(canonical_name(pattern), canonical_name(each.point));
    });
  }
  if (report.differences.empty() && report.agrees()) throw nothing_in_common(report);
  fill_added(report.differences);
  const Difference* first = report.first_divergence();
  if (first != nullptr && (first->raw_rel_l2 != 0 || first->unmatched_non_finite > 0)) {
    const Files files = {.reference = reference,
                         .candidate = candidate,
                         .alignment = alignment,
                         .reference_points = reference_names,
                         .candidate_points = candidate_names};
    report.finding = find_origin(files, report.differences, *first);
  }
  return report;
}

}  // namespace layerprobe::compare
