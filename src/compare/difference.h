#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "compare/row_kernel.h"

namespace layerprobe::compare {

/// Rows that stand one after the other in both files and hold the same tokens.
struct RowRun {
  std::int64_t reference_row = 0;
  std::int64_t candidate_row = 0;
  std::int64_t count = 0;
};

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

/// The k of LogitsDifference::top_k_overlap, where there are as many tokens.
inline constexpr std::int64_t kLogitsTopK = 10;

/// How far the candidate's logits lie from the reference's as distributions over the next token. Of the values as they
/// are stored, in f64. Percentiles within 1.1 %.
struct LogitsDifference {
  std::int64_t num_rows = 0;                   // that count
  std::int64_t num_left_out = 0;               // no distribution on a side: NaN, +infinity, or nothing but -infinity
  double kl_mean = 0, kl_p99 = 0, kl_max = 0;  // KL(reference || candidate), in nats
  std::optional<Token> kl_max_at = {};         // the first that has it; nothing when it is 0
  std::int64_t num_same_top1 = 0;              // rows whose most likely token is the same
  std::int64_t top_k = 0;
  double top_k_overlap = 1;  // share of the reference's top_k most likely tokens that are among the candidate's
  // Of the rows with another most likely token, how far the reference's largest logit lies above its next: small where
  // rounding alone may have decided.
  double gap_p50 = 0, gap_max = 0;
  std::optional<Token> gap_max_at = {};

  double top1_agreement() const {
    return num_rows == 0 ? 1 : static_cast<double>(num_same_top1) / static_cast<double>(num_rows);
  }
};

/// Which experts a router chose for the same tokens in both runs. Percentiles within 1.1 %.
struct RoutingDifference {
  std::int64_t num_experts_per_tok = 0;
  std::int64_t num_experts = 0;  // 0: the files do not both hold the router's logits
  std::int64_t num_rows = 0;
  std::int64_t num_rerouted = 0;  // tokens with another expert in the candidate; another order of them does not count
  double overlap = 1;             // share of the reference's choices that the candidate made too
  // Where both hold the router's logits: does nearly every token have the experts with the largest ones? Where not, a
  // bias or groups decide too.
  bool reference_chooses_largest = false, candidate_chooses_largest = false;
  // What a router chooses by: its logits, or, where the reference does not and its bias is known, sigmoid(logit) +
  // bias.
  bool uses_bias = false;
  // Where the reference chooses the largest of those, of the rerouted tokens: how far that of an expert that the
  // candidate dropped lies above that of one it chose instead, the largest of the token's. Small is noise.
  bool knows_margins = false;
  double margin_p50 = 0, margin_max = 0;
  std::optional<Token> margin_max_at = {};
  // Tokens that the candidate's own logits would not have sent there: its way of choosing is another one.
  std::int64_t num_unexplained = 0;
  std::optional<Token> first_unexplained = {};
  std::optional<double> weights_rel_l2 = {};     // of the tokens with the same experts, expert by expert
  std::optional<double> baseline_rerouted = {};  // share of the baseline's tokens
  double max_rerouted = 0;                       // the share it was held against, where one decided

  double rerouted() const {
    return num_rows == 0 ? 0 : static_cast<double>(num_rerouted) / static_cast<double>(num_rows);
  }
};

/// rel_l2 of the tokens that had the same experts in all routers up to the point, and of those that had not.
struct RouteSplit {
  std::int64_t num_same = 0, num_rerouted = 0;
  double same_rel_l2 = 0, rerouted_rel_l2 = 0;
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
  double mean_abs = 0;                // of |candidate - reference| over all elements
  double rel_l2 = 0;                  // ||candidate - reference|| / ||reference||; 0 / 0 is 0
  double raw_rel_l2 = 0;              // the same without rounding to the narrower dtype
  double cosine = 1;
  double scale = 1;         // the factor that the reference, times it, comes nearest to the candidate with
  double calc_diff = 0;     // 1 - 2 sum(r c) / sum(r^2 + c^2), DeepGEMM's: about half of rel_l2^2
  double p50 = 0, p99 = 0;  // of the tokens' own rel_l2, within 1.1 %
  std::optional<WorstToken> worst_token;  // the first with the largest rel_l2 of its own; nothing when that is 0
  std::optional<double> added;            // rel_l2 less that of what entered; only of the residual stream's points

  // rel_l2 without what is hundreds of times larger than the rest and would drown it: the channels and the tokens
  // (attention sinks) that the reference has so. Both are found in some of its rows (sample.h). Without rerouted tokens
  // too.
  double rel_l2_without_massive = 0;
  std::vector<std::int64_t> massive_channels;
  std::int64_t num_sink_rows = 0;

  std::optional<std::array<std::int64_t, kUlpBuckets>> ulps;  // where the dtypes are one

  NonFinite reference_non_finite;
  NonFinite candidate_non_finite;
  std::int64_t unmatched_non_finite = 0;  // elements that are NaN or infinite and not the same on both sides
  std::optional<Element> first_unmatched;

  std::optional<LogitsDifference> logits;    // of lm_head
  std::optional<RoutingDifference> routing;  // of a router's topk_indices
  std::optional<RouteSplit> by_route;        // where a router was compared before
  bool judges_same_route = false;            // the tokens with the same experts decide

  bool bit_equal = false;
  std::optional<double> baseline_rel_l2;  // of the baseline against the reference
  std::optional<double> ratio;            // rel_l2 over that; infinite where that is 0 and this is not
  std::optional<double> baseline_without_massive;
  std::optional<double> max_without_massive;  // the limit of rel_l2_without_massive, where the rule has one
  double max_rel_l2 = 0;                      // the limit it was held against; 0 with Rules::exact
  std::string rule;                           // what decided: "1.00e-02 of bfloat16 x sqrt(8 blocks)", ...
  bool agrees = false;

  /// rel_l2 of what decides: all tokens, or those with the same experts.
  double judged_rel_l2() const { return judges_same_route ? by_route->same_rel_l2 : rel_l2; }
  /// The larger of judged_rel_l2() and rel_l2_without_massive.
  double error() const { return std::max(judged_rel_l2(), rel_l2_without_massive); }
  /// error() where it is more than the noise that the baseline shows; without a baseline error().
  double error_over_baseline() const {
    const auto within = [](double value, const std::optional<double>& floor) { return floor && value <= 1.2 * *floor; };
    const double whole = within(judged_rel_l2(), baseline_rel_l2) ? 0 : judged_rel_l2();
    const double plain = within(rel_l2_without_massive, baseline_without_massive) ? 0 : rel_l2_without_massive;
    return std::max(whole, plain);
  }
};

}  // namespace layerprobe::compare
