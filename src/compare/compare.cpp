#include "compare/compare.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "compare/align.h"
#include "compare/point_difference.h"
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

/// An attribute of the file; "" when it has none of that name or it is no string.
std::string attribute_of(const store::Reader& reader, const char* name) {
  const auto found = reader.attributes().find(name);
  if (found == reader.attributes().end()) return {};
  const auto* value = std::get_if<std::string>(&found->second);
  return value == nullptr ? std::string() : *value;
}

Side side_of(const store::Reader& reader) {
  return {.path = reader.path(),
          .is_finished = reader.is_finished(),
          .model = attribute_of(reader, "model"),
          .dtype = attribute_of(reader, "dtype"),
          .num_prompts = reader.prompts().num_prompts(),
          .num_rows = reader.rows().num_rows(),
          .num_points = static_cast<std::int64_t>(reader.points().size())};
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

/// The dtype a run computed in, from the file's attributes: it bounds what its f32 means and gates can agree to.
Dtype computed_dtype(const store::Reader& reader, Dtype stored) {
  return find_dtype(attribute_of(reader, "dtype")).value_or(stored);
}

double limit_for(const Difference& difference, const store::Reader& reference, const store::Reader& candidate,
                 const Rules& rules) {
  if (rules.exact || difference.judged_dtype == Dtype::i32) return 0;
  if (rules.max_rel_l2) return *rules.max_rel_l2;
  const Dtype computed =
      narrower(computed_dtype(reference, difference.judged_dtype), computed_dtype(candidate, difference.judged_dtype));
  return default_max_rel_l2(narrower(computed, difference.judged_dtype));
}

/// The point whose value enters that of `name` on the residual stream: what fed the layer, where that was captured,
/// else what left the layer before. "" for the embedding, which nothing enters; nothing for a point off the stream.
std::optional<std::string> residual_input(const std::string& name, const std::map<std::string, double>& rel_l2) {
  const std::string canonical = canonical_name(name);
  const std::string_view semantics = semantics_of(canonical);
  if (semantics == "embedding") return "";
  if (semantics == "residual_after_block") {
    const int layer = layer_of(canonical);
    const std::string own_input = canonical + ":input";
    if (rel_l2.contains(own_input)) return own_input;
    return layer == 0 ? std::string("model.embed_tokens") : text("model.layers.", layer - 1);
  }
  if (semantics == "post_final_norm") {
    int last = -1;
    for (const auto& [other, value] : rel_l2) {
      if (semantics_of(other) == "residual_after_block") last = std::max(last, layer_of(other));
    }
    return text("model.layers.", last);
  }
  return std::nullopt;
}

void fill_added(std::vector<Difference>& differences) {
  std::map<std::string, double> rel_l2;
  for (const Difference& difference : differences) rel_l2.emplace(canonical_name(difference.point), difference.rel_l2);
  for (Difference& difference : differences) {
    const std::optional<std::string> input = residual_input(difference.point, rel_l2);
    if (!input) continue;
    if (input->empty()) {
      difference.added = difference.rel_l2;
    } else if (const auto found = rel_l2.find(*input); found != rel_l2.end()) {
      difference.added = difference.rel_l2 - found->second;
    }
  }
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
         std::none_of(not_compared.begin(), not_compared.end(), [](const NotCompared& each) { return each.differs; });
}

const Difference* Report::first_divergence() const {
  const auto found =
      std::find_if(differences.begin(), differences.end(), [](const auto& each) { return !each.agrees; });
  return found == differences.end() ? nullptr : &*found;
}

double Report::passing_max_rel_l2() const {
  double most = 0;
  for (const Difference& difference : differences) {
    if (difference.rel_l2 == 0 && difference.unmatched_non_finite == 0) continue;
    const bool could_pass = difference.unmatched_non_finite == 0 && difference.judged_dtype != Dtype::i32 &&
                            std::isfinite(difference.rel_l2);
    most = std::max(most, could_pass ? difference.rel_l2 : std::numeric_limits<double>::infinity());
  }
  return most;
}

Report compare_runs(const store::Reader& reference, const store::Reader& candidate, const Rules& rules,
                    const std::function<void(double)>& progress) {
  const Names reference_names = names_of(reference);
  const Names candidate_names = names_of(candidate);
  const Selection selection(rules.points, reference_names, candidate_names);
  const Alignment alignment(reference, candidate);
  Report report;
  report.reference = side_of(reference);
  report.candidate = side_of(candidate);
  report.num_prompts = alignment.num_prompts();
  report.num_rows = alignment.num_rows();
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

  std::int64_t width_done = 0;
  for (const Pair& pair : pairs) {
    const Alignment::Shared shared = alignment.rows_of(pair.reference_point, pair.candidate_point);
    if (shared.num_rows == 0) {
      report.not_compared.push_back({.point = reference.points()[pair.reference_point].point.name,
                                     .reason = "no prompt is complete in both files"});
    } else {
      std::int64_t rows_done = 0;
      const auto advance = [&](std::int64_t rows) {
        rows_done += rows;
        const double share = static_cast<double>(rows_done) / static_cast<double>(shared.num_rows);
        const double done = static_cast<double>(width_done) + share * static_cast<double>(pair.width);
        if (progress) progress(done / static_cast<double>(std::max<std::int64_t>(1, total_width)));
      };
      Difference difference =
          difference_of(reference, pair.reference_point, candidate, pair.candidate_point, shared, advance);
      difference.max_rel_l2 = limit_for(difference, reference, candidate, rules);
      difference.agrees = rules.exact ? difference.bit_equal
                                      : difference.unmatched_non_finite == 0 &&
                                            difference.rel_l2 <= difference.max_rel_l2;  // false for a NaN
      report.differences.push_back(std::move(difference));
    }
    width_done += pair.width;
  }
  if (report.differences.empty() && report.agrees()) throw nothing_in_common(report);
  fill_added(report.differences);
  return report;
}

}  // namespace layerprobe::compare
