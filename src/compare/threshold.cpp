#include "compare/threshold.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <optional>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::compare {
namespace {

struct Metric {
  const char* name;
  std::optional<double> (*of)(const Difference&);
};

std::optional<double> of_logits(const Difference& difference, double (*value)(const LogitsDifference&)) {
  return difference.logits ? std::optional(value(*difference.logits)) : std::nullopt;
}

constexpr Metric kMetrics[] = {
    {"rel_l2", [](const Difference& d) { return std::optional(d.rel_l2); }},
    {"raw_rel_l2", [](const Difference& d) { return std::optional(d.raw_rel_l2); }},
    {"rel_l2_without_massive", [](const Difference& d) { return std::optional(d.rel_l2_without_massive); }},
    {"max_abs", [](const Difference& d) { return std::optional(d.max_abs); }},
    {"mean_abs", [](const Difference& d) { return std::optional(d.mean_abs); }},
    {"cosine", [](const Difference& d) { return std::optional(d.cosine); }},
    {"scale", [](const Difference& d) { return std::optional(d.scale); }},
    {"calc_diff", [](const Difference& d) { return std::optional(d.calc_diff); }},
    {"p50", [](const Difference& d) { return std::optional(d.p50); }},
    {"p99", [](const Difference& d) { return std::optional(d.p99); }},
    {"worst", [](const Difference& d) { return std::optional(d.worst_token ? d.worst_token->rel_l2 : 0.0); }},
    {"added", [](const Difference& d) { return d.added; }},
    {"ratio", [](const Difference& d) { return d.ratio; }},
    {"rel_l2_same_route",
     [](const Difference& d) { return d.by_route ? std::optional(d.by_route->same_rel_l2) : std::nullopt; }},
    {"overlap", [](const Difference& d) { return d.routing ? std::optional(d.routing->overlap) : std::nullopt; }},
    {"rerouted", [](const Difference& d) { return d.routing ? std::optional(d.routing->rerouted()) : std::nullopt; }},
    {"kl_mean", [](const Difference& d) { return of_logits(d, [](const auto& each) { return each.kl_mean; }); }},
    {"kl_p99", [](const Difference& d) { return of_logits(d, [](const auto& each) { return each.kl_p99; }); }},
    {"kl_max", [](const Difference& d) { return of_logits(d, [](const auto& each) { return each.kl_max; }); }},
    {"top1_agreement",
     [](const Difference& d) { return of_logits(d, [](const auto& each) { return each.top1_agreement(); }); }},
    {"top_k_overlap",
     [](const Difference& d) { return of_logits(d, [](const auto& each) { return each.top_k_overlap; }); }},
};

Error wrong(std::string_view text_given, std::string what) {
  return Error({.kind = ErrorKind::usage,
                .where = text("--threshold '", text_given, "'"),
                .what = std::move(what),
                .fix = "write it as 'model.layers.*.mlp: rel_l2 <= 5e-3 or max_abs <= 1e-3'"});
}

std::vector<std::string> words_of(std::string_view expression) {
  std::vector<std::string> words;
  std::string word;
  const auto end_word = [&] {
    if (!word.empty()) words.push_back(std::move(word));
    word.clear();
  };
  for (std::size_t i = 0; i < expression.size(); ++i) {
    const char c = expression[i];
    if (c == ' ' || c == '\t') {
      end_word();
    } else if (c == '<' || c == '>') {
      end_word();
      word = c;
      if (i + 1 < expression.size() && expression[i + 1] == '=') word += expression[++i];
      end_word();
    } else {
      word += c;
    }
  }
  end_word();
  return words;
}

Threshold::Condition condition_of(std::string_view given, const std::string& metric, const std::string& relation,
                                  const std::string& number) {
  const auto* const known = std::ranges::find_if(kMetrics, [&](const Metric& each) { return metric == each.name; });
  if (known == std::end(kMetrics)) {
    std::vector<std::string> names;
    for (const Metric& each : kMetrics) names.emplace_back(each.name);
    throw wrong(given, text("\"", metric, "\" is no metric; there are ", join(names, ", ")));
  }
  if (relation != "<=" && relation != ">=") {
    throw wrong(given, text("\"", relation, "\" stands where <= or >= is expected"));
  }
  double limit = 0;
  const auto [end, failure] = std::from_chars(number.data(), number.data() + number.size(), limit);
  if (failure != std::errc() || end != number.data() + number.size() || !std::isfinite(limit)) {
    throw wrong(given, text("\"", number, "\" is not a number"));
  }
  return {.metric = metric, .is_at_most = relation == "<=", .limit = limit};
}

bool holds(const Threshold::Condition& condition, const Difference& difference) {
  for (const Metric& each : kMetrics) {
    if (condition.metric != each.name) continue;
    const std::optional<double> value = each.of(difference);
    return value && (condition.is_at_most ? *value <= condition.limit : *value >= condition.limit);
  }
  return false;
}

}  // namespace

bool Threshold::holds_for(const Difference& difference) const {
  return std::ranges::any_of(any_of_all, [&](const auto& all) {
    return std::ranges::all_of(all, [&](const Condition& each) { return holds(each, difference); });
  });
}

Threshold parse_threshold(std::string_view given) {
  const std::size_t colon = given.find(": ");  // a point's name may have a colon, but no space behind it
  if (colon == std::string_view::npos) throw wrong(given, "there is no \": \" between the pattern and the expression");
  Threshold out;
  out.pattern = trimmed(given.substr(0, colon));
  out.expression = trimmed(given.substr(colon + 2));
  if (out.pattern.empty()) throw wrong(given, "there is no pattern before the colon");
  const std::vector<std::string> words = words_of(out.expression);
  out.any_of_all.emplace_back();
  for (std::size_t i = 0;; i += 4) {
    if (i + 3 > words.size()) throw wrong(given, "METRIC <= NUMBER is expected at the end");
    out.any_of_all.back().push_back(condition_of(given, words[i], words[i + 1], words[i + 2]));
    if (i + 3 == words.size()) return out;
    if (words[i + 3] == "or") {
      out.any_of_all.emplace_back();
    } else if (words[i + 3] != "and") {
      throw wrong(given, text("\"", words[i + 3], "\" stands where `and` or `or` is expected"));
    }
  }
}

}  // namespace layerprobe::compare
