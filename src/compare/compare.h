#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "store/reader.h"

namespace layerprobe::compare {

/// When two values of a point agree.
struct Rules {
  /// Largest rel_l2 that agrees, for every floating point; without it default_max_rel_l2 of the narrower dtype. Two
  /// points of integers agree when they are equal.
  std::optional<double> max_rel_l2;
  /// Only the same bits agree.
  bool exact = false;
  /// Patterns (base/probe_point.h) of the points to compare; empty: all.
  std::vector<std::string> points;
};

/// bf16 and f16 1e-2, f32 1e-5, f64 1e-12: how far correct runs of that dtype stray from each other by rounding alone.
double default_max_rel_l2(Dtype dtype);

/// One token of one prompt; token -1 is the mean over the prompt's tokens.
struct Token {
  std::int64_t prompt = 0;
  std::int64_t token = 0;
};

/// One element of a point and its value on both sides.
struct Element {
  Token token;
  std::int64_t channel = 0;
  double reference = 0;
  double candidate = 0;
};

struct WorstToken {
  Token token;
  double rel_l2 = 0;
};

struct NonFinite {
  std::int64_t nan = 0;
  std::int64_t inf = 0;
};

/// How far the candidate's values of one point lie from the reference's, over the rows that both files have.
///
/// Where the dtypes differ, both sides are first rounded to the narrower one (of bf16 and f16: bf16). All sums are f64.
/// Elements that are NaN or infinite on a side are counted and left out of the rest; unless both sides have the same
/// there, the point does not agree.
struct Difference {
  std::string point;  // as the reference spells it
  Dtype reference_dtype = Dtype::bf16;
  Dtype candidate_dtype = Dtype::bf16;
  Dtype judged_dtype = Dtype::bf16;  // the narrower of the two
  std::int64_t width = 0;
  std::int64_t num_prompts = 0;             // compared
  std::int64_t num_incomplete_prompts = 0;  // left out: not all there in a partial file
  std::int64_t num_rows = 0;                // compared

  double max_abs_reference = 0;
  double max_abs = 0;                 // largest |candidate - reference|
  std::optional<Element> max_abs_at;  // the first that has it; nothing when it is 0
  double rel_l2 = 0;                  // ||candidate - reference|| / ||reference||; 0 / 0 is 0
  double raw_rel_l2 = 0;              // the same without rounding to the narrower dtype
  double cosine = 1;
  std::optional<WorstToken> worst_token;  // the first with the largest rel_l2 of its own; nothing when that is 0
  std::optional<double> added;            // rel_l2 less that of what entered; only of the residual stream's points

  NonFinite reference_non_finite;
  NonFinite candidate_non_finite;
  std::int64_t unmatched_non_finite = 0;  // elements that are NaN or infinite and not the same on both sides
  std::optional<Element> first_unmatched;

  bool bit_equal = false;
  double max_rel_l2 = 0;  // the limit it was held against; 0 with Rules::exact
  bool agrees = false;
};

/// A point that was not compared.
struct NotCompared {
  std::string point;
  std::string reason;    // "only in the reference", "width is 64 where the reference has 128", ...
  bool differs = false;  // the reason is itself a difference: shape or kind of value
};

struct Side {
  std::filesystem::path path;
  bool is_finished = true;
  std::string model;  // attributes of the file: what was run, and in what dtype it computed; "" where it does not say
  std::string dtype;
  std::int64_t num_prompts = 0;
  std::int64_t num_rows = 0;
  std::int64_t num_points = 0;
};

struct Report {
  Side reference;
  Side candidate;
  std::int64_t num_prompts = 0;  // in both
  std::int64_t num_rows = 0;     // in both: the same token of the same prompt
  Rules rules;
  std::vector<Difference> differences;    // in the reference's order, that of the forward pass
  std::vector<NotCompared> not_compared;  // in the reference's order, then those of the candidate alone

  bool agrees() const;
  /// The first point that does not agree; nullptr when none does so.
  const Difference* first_divergence() const;
  /// The smallest Rules::max_rel_l2 under which all would agree; infinite where none would do.
  double passing_max_rel_l2() const;
};

/// Holds the candidate against the reference: points by name ("model.language_model." and "model." are the same),
/// prompts by index, rows by token. Reads both files once, with all cores, in constant memory; the numbers do not
/// depend on how many cores, nor on their kind. Throws Error(input) when there is nothing to compare: another input, no
/// point or row in common; Error(usage) for a pattern that no point matches.
///
/// `progress` is called now and then, from any one thread at a time, with the share that is done, 0 to 1.
Report compare_runs(const store::Reader& reference, const store::Reader& candidate, const Rules& rules,
                    const std::function<void(double)>& progress = {});

/// What came out, in one line for a person: "first divergence: model.layers.7: rel_l2 3.1e-02 is over 1.0e-02, ...".
std::string verdict(const Report& report);

}  // namespace layerprobe::compare
