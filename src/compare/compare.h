#pragma once

#include <array>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "compare/diagnose.h"
#include "compare/difference.h"
#include "compare/heatmap.h"
#include "compare/selection_bias.h"
#include "compare/threshold.h"
#include "store/reader.h"

namespace layerprobe::compare {

/// When two values of a point agree. The first of these that says something about a point decides.
struct Rules {
  /// Largest rel_l2 that agrees, for every floating point. Two points of integers agree when they are equal.
  std::optional<double> max_rel_l2;
  /// Only the same bits agree.
  bool exact = false;
  /// Patterns (base/probe_point.h) of the points to compare; empty: all.
  std::vector<std::string> points;
  /// Asked before max_rel_l2; of those whose pattern matches, the first counts.
  std::vector<Threshold> thresholds = {};
  /// The candidate's blocks were fed the reference's own values: limits are those of one block, twice
  /// default_max_rel_l2: a block that writes the massive values strays by more than its share (SmolLM2-135M's
  /// by 1.22e-2).
  bool is_one_block = false;
  /// Stop at the first point that does not agree: those behind it are not compared.
  bool fail_fast = false;
  /// A point that only one side has, or that cannot be compared, is a failure unless one of these patterns names it;
  /// nothing: it is listed.
  std::optional<std::vector<std::string>> allow_skip = {};
  /// The model's, which the files do not hold: with it the margins of such routers are known.
  SelectionBias selection_bias = {};
};

/// bf16 and f16 1e-2, f32 1e-5, f64 1e-12: how far correct runs of that dtype stray from each other by rounding alone,
/// in one block. What is allowed at a point is that times sqrt(blocks it went through), for errors of layers that have
/// nothing to do with each other add up so; and twice that for what a module inside a block gives, which is small
/// beside the residual stream that its errors come from. (SmolLM2-135M, bf16 against f32, 12 prompts: at most 0.85 of
/// it on the stream and 0.61 inside.) Held to it are rel_l2 and rel_l2_without_massive.
double default_max_rel_l2(Dtype dtype);

/// With a baseline, a point agrees up to this many times the baseline's own error.
inline constexpr double kMaxRatio = 1.5;

/// A point that was not compared.
struct NotCompared {
  std::string point;
  std::string reason;      // "only in the reference", "width is 64 where the reference has 128", ...
  bool differs = false;    // the reason is itself a difference: shape or kind of value
  bool is_missed = false;  // Rules::allow_skip does not name it
};

struct Side {
  std::filesystem::path path;
  bool is_finished = true;
  std::string model;  // attributes of the file: what was run, and in what dtype it computed; "" where it does not say
  std::string dtype;
  std::int64_t num_prompts = 0;
  std::int64_t num_rows = 0;
  std::int64_t num_points = 0;
  std::vector<std::pair<std::string, std::string>> attributes = {};  // all of the file's, as text, by name
};

struct Report {
  Side reference;
  Side candidate;
  std::optional<Side> baseline;
  std::int64_t num_prompts = 0;  // in both
  std::int64_t num_rows = 0;     // in both: the same token of the same prompt
  std::string prompt_order;  // how the candidate's prompts had to be put in order; "" where they are the reference's
  Rules rules;
  std::vector<Difference> differences;    // in the reference's order, that of the forward pass
  std::vector<NotCompared> not_compared;  // in the reference's order, then those of the candidate alone
  std::optional<Finding> finding;         // where it begins and what it looks like; of a report that does not agree
  std::vector<RowRun> rows;               // what the heatmaps' columns are of
  std::vector<Heatmap> heatmaps;          // one of each difference

  bool agrees() const;
  /// The first point that does not agree; nullptr when none does so.
  const Difference* first_divergence() const;
  /// The smallest Rules::max_rel_l2 under which all would agree; infinite where none would do.
  double passing_max_rel_l2() const;
};

/// Holds the candidate against the reference: points by name ("model.language_model." and "model." are the same),
/// prompts by their tokens, rows by token. Reads both files once, with all cores, in constant memory; the numbers do
/// not depend on how many cores, nor on their kind. Throws Error(input) when there is nothing to compare: another
/// input, no point or row in common; Error(usage) for a pattern that no point matches.
///
/// With a `baseline`, a correct run that is allowed to stray from the reference as far as it does, the candidate is
/// held to kMaxRatio times its error at each point that it has.
///
/// `progress` is called now and then, from any one thread at a time, with the share that is done, 0 to 1.
Report compare_runs(const store::Reader& reference, const store::Reader& candidate, const Rules& rules,
                    const std::function<void(double)>& progress = {}, const store::Reader* baseline = nullptr);

/// "1.16e-02"
std::string rel_l2_text(double value);

/// What came out, in one sentence for a person: "first divergence: model.layers.7: rel_l2 3.1e-02 is over 1.0e-02,
/// ...".
std::string verdict(const Report& report);

}  // namespace layerprobe::compare
