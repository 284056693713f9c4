#include <ostream>

#include "base/json.h"
#include "base/probe_point.h"
#include "cli/compare_output.h"

namespace layerprobe::cli {
namespace {

using compare::Difference;
using compare::Report;

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

Json place(const std::optional<compare::Token>& token) { return token ? json_of(*token) : Json(); }

Json json_of(const std::optional<compare::RoutingDifference>& routing) {
  if (!routing) return nullptr;
  const auto number = [](const std::optional<double>& value) { return value ? Json(*value) : Json(); };
  Json out;
  out.set("num_experts_per_tok", routing->num_experts_per_tok);
  out.set("num_experts", routing->num_experts > 0 ? Json(routing->num_experts) : Json());
  out.set("num_rows", routing->num_rows);
  out.set("num_rerouted", routing->num_rerouted);
  out.set("rerouted", routing->rerouted());
  out.set("overlap", routing->overlap);
  out.set("reference_chooses_largest", routing->num_experts > 0 ? Json(routing->reference_chooses_largest) : Json());
  out.set("candidate_chooses_largest", routing->num_experts > 0 ? Json(routing->candidate_chooses_largest) : Json());
  out.set("uses_bias", routing->uses_bias);
  out.set("margin_p50", routing->knows_margins ? Json(routing->margin_p50) : Json());
  out.set("margin_max", routing->knows_margins ? Json(routing->margin_max) : Json());
  out.set("margin_max_at", place(routing->margin_max_at));
  out.set("num_unexplained", routing->knows_margins ? Json(routing->num_unexplained) : Json());
  out.set("first_unexplained", place(routing->first_unexplained));
  out.set("weights_rel_l2", number(routing->weights_rel_l2));
  out.set("baseline_rerouted", number(routing->baseline_rerouted));
  return out;
}

Json json_of(const std::optional<compare::RouteSplit>& split) {
  if (!split) return nullptr;
  Json out;
  out.set("num_same", split->num_same);
  out.set("num_rerouted", split->num_rerouted);
  out.set("same_rel_l2", split->same_rel_l2);
  out.set("rerouted_rel_l2", split->rerouted_rel_l2);
  return out;
}

Json json_of(const std::optional<compare::LogitsDifference>& logits) {
  if (!logits) return nullptr;
  Json out;
  out.set("num_rows", logits->num_rows);
  out.set("num_left_out", logits->num_left_out);
  out.set("kl_mean", logits->kl_mean);
  out.set("kl_p99", logits->kl_p99);
  out.set("kl_max", logits->kl_max);
  out.set("kl_max_at", place(logits->kl_max_at));
  out.set("top1_agreement", logits->top1_agreement());
  out.set("num_same_top1", logits->num_same_top1);
  out.set("top_k", logits->top_k);
  out.set("top_k_overlap", logits->top_k_overlap);
  out.set("gap_p50", logits->gap_p50);
  out.set("gap_max", logits->gap_max);
  out.set("gap_max_at", place(logits->gap_max_at));
  return out;
}

Json json_of(const Difference& difference) {
  Json out;
  out.set("type", "point");
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
  out.set("mean_abs", difference.mean_abs);
  out.set("cosine", difference.cosine);
  out.set("scale", difference.scale);
  out.set("calc_diff", difference.calc_diff);
  out.set("p50", difference.p50);
  out.set("p99", difference.p99);
  Json worst;
  if (difference.worst_token) {
    worst = json_of(difference.worst_token->token);
    worst.set("rel_l2", difference.worst_token->rel_l2);
  }
  out.set("worst_token", worst);
  out.set("added", difference.added ? Json(*difference.added) : Json());
  out.set("rel_l2_without_massive", difference.rel_l2_without_massive);
  Json massive(Json::Array{});
  for (const std::int64_t channel : difference.massive_channels) massive.push(channel);
  out.set("massive_channels", std::move(massive));
  out.set("num_sink_rows", difference.num_sink_rows);
  Json ulps;
  if (difference.ulps) {
    const char* names[compare::kUlpBuckets] = {"0", "1", "2", "3-4", "5-8", "9-16", "17-64", "over 64"};
    for (std::size_t i = 0; i < difference.ulps->size(); ++i) ulps.set(names[i], (*difference.ulps)[i]);
  }
  out.set("ulps", std::move(ulps));
  out.set("reference_non_finite", json_of(difference.reference_non_finite));
  out.set("candidate_non_finite", json_of(difference.candidate_non_finite));
  out.set("unmatched_non_finite", difference.unmatched_non_finite);
  out.set("first_unmatched", json_of(difference.first_unmatched));
  out.set("logits", json_of(difference.logits));
  out.set("routing", json_of(difference.routing));
  out.set("by_route", json_of(difference.by_route));
  out.set("judges_same_route", difference.judges_same_route);
  out.set("bit_equal", difference.bit_equal);
  out.set("baseline_rel_l2", difference.baseline_rel_l2 ? Json(*difference.baseline_rel_l2) : Json());
  out.set("ratio", difference.ratio ? Json(*difference.ratio) : Json());
  out.set("max_rel_l2", difference.max_rel_l2);
  out.set("max_without_massive", difference.max_without_massive ? Json(*difference.max_without_massive) : Json());
  out.set("rule", difference.rule);
  out.set("agrees", difference.agrees);
  return out;
}

Json config_of(const Report& report) {
  Json out;
  out.set("type", "config");
  out.set("reference", json_of(report.reference));
  out.set("candidate", json_of(report.candidate));
  out.set("baseline", report.baseline ? json_of(*report.baseline) : Json());
  out.set("num_prompts", report.num_prompts);
  out.set("num_rows", report.num_rows);
  out.set("prompt_order", report.prompt_order);
  return out;
}

Json skip_of(const compare::NotCompared& skipped) {
  Json out;
  out.set("type", "skip");
  out.set("point", skipped.point);
  out.set("reason", skipped.reason);
  out.set("differs", skipped.differs);
  out.set("is_missed", skipped.is_missed);
  return out;
}

Json json_of(const std::optional<compare::Finding>& finding) {
  Json out;
  if (!finding) return out;
  out.set("point", finding->point);
  out.set("layer", layer_of(finding->point));
  out.set("kind", compare::name_of(finding->kind));
  out.set("words", finding->words);
  return out;
}

Json layer_of_blame(const Blame::Layer& layer) {
  Json out;
  out.set("type", "layer");
  out.set("layer", layer.layer);
  out.set("own_rel_l2", layer.own_error());
  out.set("agrees", layer.agrees());
  out.set("finding", json_of(layer.finding));
  Json points(Json::Array{});
  for (const Difference& each : layer.differences) points.push(json_of(each));
  out.set("points", std::move(points));
  return out;
}

Json summary_of(const Report& report, const Blame* blame) {
  Json out;
  out.set("type", "summary");
  out.set("agrees", report.agrees());
  const Difference* first = report.first_divergence();
  out.set("first_divergence", first == nullptr ? Json() : Json(first->point));
  out.set("rule", first == nullptr ? Json() : Json(first->rule));
  out.set("finding", json_of(report.finding));
  if (blame != nullptr) {
    out.set("culprit", blame->culprit() == nullptr ? Json() : json_of(blame->culprit()->finding));
    out.set("blame", blame_sentence(*blame, report));
  }
  out.set("passing_max_rel_l2", report.passing_max_rel_l2());
  out.set("verdict", compare::verdict(report));
  return out;
}

}  // namespace

void write_json_lines(std::ostream& out, const Report& report, const Blame* blame) {
  out << config_of(report).dump() << "\n";
  for (const Difference& each : report.differences) out << json_of(each).dump() << "\n";
  for (const compare::NotCompared& each : report.not_compared) out << skip_of(each).dump() << "\n";
  if (blame != nullptr) {
    for (const Blame::Layer& each : blame->layers) out << layer_of_blame(each).dump() << "\n";
  }
  out << summary_of(report, blame).dump() << "\n";
}

}  // namespace layerprobe::cli
