#include <array>
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "base/text.h"
#include "compare/compare.h"

namespace layerprobe::compare {
namespace {

/// Three digits, not below `value`: given to --max-rel-l2 it passes.
std::string rounded_up(double value) {
  const double unit = std::pow(10.0, std::floor(std::log10(value)) - 2);
  for (double digits = std::ceil(value / unit) - 1;; ++digits) {
    const std::string out = rel_l2_text(digits * unit);
    if (std::strtod(out.c_str(), nullptr) >= value) return out;
  }
}

std::string place(const Token& token) {
  if (token.token < 0) return text("the mean of prompt ", token.prompt);
  return text("prompt ", token.prompt, ", token ", token.token);
}

/// "3.1 %"
std::string percent(double share) {
  std::array<char, 32> out{};
  std::snprintf(out.data(), out.size(), "%.3g %%", 100 * share);
  return out.data();
}

std::string points_text(std::size_t count) { return text(count, count == 1 ? " point" : " points"); }

std::string what_would_pass(const Report& report) {
  const double limit = report.passing_max_rel_l2();
  if (report.rules.exact && limit == 0) return "; without --exact it agrees";
  if (!std::isfinite(limit)) return "; no --max-rel-l2 would pass";
  return "; --max-rel-l2 " + rounded_up(limit) + " would pass";
}

std::string divergence(const Difference& first, const Rules& rules) {
  if (first.unmatched_non_finite > 0) {
    const Element& at = *first.first_unmatched;
    return text(first.unmatched_non_finite, " NaN or infinite on one side only, the first at ", place(at.token),
                ", channel ", at.channel, ": ", at.candidate, " where the reference has ", at.reference);
  }
  if (first.routing && !rules.exact) {
    const RoutingDifference& routing = *first.routing;
    std::string out = text(routing.num_rerouted, " of ", routing.num_rows, " tokens went to other experts (",
                           percent(routing.overlap), " of the choices are the same)");
    if (routing.num_unexplained > 0) {
      out +=
          text(", ", routing.num_unexplained, " against the candidate's own router logits",
               routing.uses_bias ? " with the model's bias" : "", ", the first at ", place(*routing.first_unexplained));
    }
    if (routing.num_rerouted > 0 && routing.knows_margins) {
      out += text(", margins up to ", rel_l2_text(routing.margin_max));
    }
    return text(out, " (", first.rule, ")");
  }
  const double judged = first.judged_rel_l2();
  if (!rules.exact && first.max_without_massive && judged <= first.max_rel_l2) {
    std::string what = first.massive_channels.empty() ? "" : text(first.massive_channels.size(), " massive channels");
    if (first.num_sink_rows > 0) {
      what += text(what.empty() ? "" : " and ", first.num_sink_rows, " attention sinks");
    }
    return text("rel_l2 ", rel_l2_text(judged), " hides ", rel_l2_text(first.rel_l2_without_massive), " without ", what,
                ", over ", rel_l2_text(*first.max_without_massive), " (", first.rule, ")");
  }
  std::string out = "rel_l2 " + rel_l2_text(judged);
  if (rules.exact) {
    out += ", not the same bits";
  } else {
    out += first.max_rel_l2 > 0 ? text(" is over ", rel_l2_text(first.max_rel_l2), " (", first.rule, ")")
                                : text(", against ", first.rule);
  }
  if (first.worst_token) {
    out += text(", worst token: ", place(first.worst_token->token), " (", rel_l2_text(first.worst_token->rel_l2), ")");
  }
  return out;
}

/// "; begins in model.layers.3.mlp: each channel is off ..."
std::string origin(const Report& report, const Difference& first) {
  if (!report.finding) return {};
  const Finding& finding = *report.finding;
  std::string out;
  if (finding.point != first.point) {
    out += "; it begins at " + finding.point;
    for (const Difference& each : report.differences) {
      if (each.point == finding.point) out += " (" + rel_l2_text(each.rel_l2) + ")";
    }
  }
  if (!finding.words.empty()) out += (out.empty() ? "; " : ": ") + finding.words;
  return out;
}

/// "; other experts at most in 3.1 % of the tokens (model.layers.7)"
std::string routing_text(const Report& report) {
  const Difference* worst = nullptr;
  for (const Difference& each : report.differences) {
    if (!each.routing || each.routing->num_rerouted == 0 || &each == report.first_divergence()) continue;
    if (worst == nullptr || each.routing->rerouted() > worst->routing->rerouted()) worst = &each;
  }
  if (worst == nullptr) return {};
  return text("; other experts for at most ", percent(worst->routing->rerouted()), " of the tokens (", worst->point,
              ")");
}

/// "; logits: 31 of 32 rows have the same most likely token, KL 1.2e-04 in the mean and 3.4e-03 at most"
std::string logits_text(const Report& report) {
  for (const Difference& each : report.differences) {
    if (!each.logits || each.bit_equal || each.logits->num_rows == 0) continue;
    const LogitsDifference& logits = *each.logits;
    return text("; logits: ", logits.num_same_top1, " of ", logits.num_rows,
                " rows have the same most likely token, KL ", rel_l2_text(logits.kl_mean), " in the mean and ",
                rel_l2_text(logits.kl_max), " at most");
  }
  return {};
}

}  // namespace

std::string rel_l2_text(double value) {
  if (std::isnan(value)) return "nan";  // printf knows -nan
  std::array<char, 32> out{};
  std::snprintf(out.data(), out.size(), "%.2e", value);
  return out.data();
}

std::string verdict(const Report& report) {
  for (const NotCompared& each : report.not_compared) {
    if (each.differs) return text("first divergence: ", each.point, ": ", each.reason);
  }
  if (const Difference* first = report.first_divergence()) {
    return text("first divergence: ", first->point, ": ", divergence(*first, report.rules), origin(report, *first),
                routing_text(report), logits_text(report), what_would_pass(report));
  }
  for (const NotCompared& each : report.not_compared) {
    if (!each.is_missed) continue;
    return text("not all was compared: ", each.point, " is ", each.reason, ", and no --allow-skip names it");
  }
  const Difference* worst = nullptr;
  bool are_equal = true;
  for (const Difference& each : report.differences) {
    if (!each.routing && (worst == nullptr || each.judged_rel_l2() > worst->judged_rel_l2())) worst = &each;
    are_equal = are_equal && each.bit_equal;
  }
  std::string out = "agree: " + points_text(report.differences.size());
  if (are_equal) {
    out += ", the same bits";
  } else {
    out += text(" within ", report.rules.max_rel_l2 ? rel_l2_text(*report.rules.max_rel_l2) : "their limits",
                worst == nullptr
                    ? std::string()
                    : text("; the largest rel_l2 is ", rel_l2_text(worst->judged_rel_l2()), " at ", worst->point),
                routing_text(report), logits_text(report));
  }
  if (!report.prompt_order.empty())
    out += text("; prompts paired by their tokens: the candidate has ", report.prompt_order);
  if (!report.not_compared.empty()) out += text("; ", points_text(report.not_compared.size()), " not compared");
  return out;
}

}  // namespace layerprobe::compare
