#include <algorithm>
#include <cmath>
#include <optional>
#include <ostream>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "base/json.h"
#include "base/probe_point.h"
#include "base/text.h"
#include "cli/compare_output.h"
#include "cli/report_page.h"
#include "cli/table.h"

namespace layerprobe::cli {
namespace {

using compare::Difference;
using compare::Report;

constexpr std::int64_t kMaxCells = 1 << 21;   // of the heatmap, a byte each
constexpr std::int64_t kMaxTokens = 100'000;  // whose places and ids are in the page: 16 bytes each

std::string base64(std::span<const std::uint8_t> bytes) {
  constexpr std::string_view kLetters = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string out;
  out.reserve((bytes.size() + 2) / 3 * 4);
  for (std::size_t i = 0; i < bytes.size(); i += 3) {
    std::uint32_t three = 0;
    for (std::size_t k = 0; k < 3; ++k) three = three << 8 | (i + k < bytes.size() ? bytes[i + k] : 0u);
    for (std::size_t k = 0; k < 4; ++k) {
      out += i + k <= bytes.size() ? kLetters[three >> (18 - 6 * k) & 63] : '=';
    }
  }
  return out;
}

std::string base64(const std::vector<std::int32_t>& values) {
  return base64(std::span(reinterpret_cast<const std::uint8_t*>(values.data()), values.size() * sizeof values[0]));
}

Json number_or_null(const std::optional<double>& value) { return value ? Json(*value) : Json(); }

Json point_of(const Difference& each) {
  Json out;
  out.set("n", printable(each.point));
  out.set("layer", layer_of(each.point));
  const std::string_view semantics = semantics_of(each.point);
  out.set("stream", semantics == "residual_after_block" || semantics == "embedding" || semantics == "post_final_norm");
  out.set("rel", each.routing ? Json() : Json(each.judged_rel_l2()));
  out.set("plain", each.rel_l2_without_massive);
  out.set("lim", each.max_rel_l2);
  out.set("base", number_or_null(each.baseline_rel_l2));
  out.set("ratio", number_or_null(each.ratio));
  out.set("added", number_or_null(each.added));
  out.set("cosine", each.cosine);
  out.set("scale", each.scale);
  out.set("max_ref", each.max_abs_reference);
  out.set("max_abs", each.max_abs);
  out.set("mean_abs", each.mean_abs);
  out.set("p50", each.p50);
  out.set("p99", each.p99);
  Json worst;
  if (each.worst_token) {
    worst = Json::Array{Json(each.worst_token->token.prompt), Json(each.worst_token->token.token),
                        Json(each.worst_token->rel_l2)};
  }
  out.set("worst", std::move(worst));
  out.set("nan", Json::Array{Json(each.reference_non_finite.nan + each.reference_non_finite.inf),
                             Json(each.candidate_non_finite.nan + each.candidate_non_finite.inf)});
  Json ulps;
  if (each.ulps) {
    ulps = Json::Array{};
    for (const std::int64_t count : *each.ulps) ulps.push(count);
  }
  out.set("ulps", std::move(ulps));
  out.set("route", each.by_route && each.num_rows > 0
                       ? Json(static_cast<double>(each.by_route->num_same) / static_cast<double>(each.num_rows))
                       : Json());
  out.set("route_rel", each.by_route ? Json(each.by_route->same_rel_l2) : Json());
  out.set("same", each.bit_equal);
  out.set("ok", each.agrees);
  return out;
}

Json side_of(const char* role, const compare::Side& side) {
  Json attributes(Json::Array{});
  const auto add = [&](const std::string& name, const std::string& value) {
    attributes.push(Json::Array{Json(shortened(name)), Json(shortened(value))});
  };
  add("file", side.path.string());
  add("finished", side.is_finished ? "yes" : "no: a partial file");
  add("prompts", std::to_string(side.num_prompts));
  add("rows", std::to_string(side.num_rows));
  add("points", std::to_string(side.num_points));
  for (const auto& [name, value] : side.attributes) add(name, value);
  Json out;
  out.set("role", role);
  out.set("attributes", std::move(attributes));
  return out;
}

/// The residual stream's points, and the others as long as there is room: all, or none of them.
Json heatmap_of(const Report& report) {
  std::vector<std::size_t> shown, stream;
  for (std::size_t i = 0; i < report.differences.size(); ++i) {
    if (report.differences[i].num_rows != report.num_rows) continue;  // its columns are other tokens
    if (report.differences[i].routing) continue;  // how far the numbers of experts lie apart says nothing
    shown.push_back(i);
    const std::string_view semantics = semantics_of(report.differences[i].point);
    if (semantics == "residual_after_block" || semantics == "embedding" || semantics == "post_final_norm") {
      stream.push_back(i);
    }
  }
  constexpr std::size_t kMaxPoints = 120;
  if (shown.size() > kMaxPoints && !stream.empty()) shown = std::move(stream);
  Json names(Json::Array{});
  std::vector<std::uint8_t> cells;
  std::int64_t columns = 0;
  if (!shown.empty()) {
    const auto there = static_cast<std::int64_t>(report.heatmaps[shown.front()].values().size());
    const std::int64_t each = std::max<std::int64_t>(1, kMaxCells / static_cast<std::int64_t>(shown.size()));
    columns = std::min(there, each);
    for (const std::size_t i : shown) {
      names.push(printable(report.differences[i].point));
      const std::vector<std::uint8_t>& values = report.heatmaps[i].values();
      std::vector<std::uint8_t> row(static_cast<std::size_t>(columns));
      for (std::int64_t k = 0; k < there; ++k) {
        std::uint8_t& cell = row[static_cast<std::size_t>(k * columns / there)];
        cell = std::max(cell, values[static_cast<std::size_t>(k)]);
      }
      cells.insert(cells.end(), row.begin(), row.end());
    }
  }
  Json out;
  out.set("points", std::move(names));
  out.set("columns", columns);
  out.set("rows", report.num_rows);
  out.set("data", base64(cells));
  return out;
}

/// Which token each row is; null where they are too many.
Json tokens_of(const Report& report, const store::Reader& reference, const TokenText& token_text) {
  if (report.num_rows > kMaxTokens) return {};
  const CapturedRows& rows = reference.rows();
  const Prompts& prompts = reference.prompts();
  std::vector<std::int32_t> prompt_of, position, ids;
  for (const compare::RowRun& run : report.rows) {
    for (std::int64_t row = run.reference_row; row < run.reference_row + run.count; ++row) {
      const auto after = std::upper_bound(rows.cu_rows.begin(), rows.cu_rows.end(), row);
      const auto prompt = static_cast<std::size_t>(after - rows.cu_rows.begin() - 1);
      prompt_of.push_back(static_cast<std::int32_t>(prompt));
      position.push_back(rows.position[static_cast<std::size_t>(row)]);
      if (position.back() >= 0 && !prompts.input_ids.empty()) {
        ids.push_back(prompts.input_ids[static_cast<std::size_t>(prompts.cu_seqlens[prompt] + position.back())]);
      }
    }
  }
  Json out;
  out.set("prompt", base64(prompt_of));
  out.set("position", base64(position));
  const bool has_ids = ids.size() == prompt_of.size() && !ids.empty();
  out.set("id", has_ids ? Json(base64(ids)) : Json());
  Json texts;
  if (has_ids && token_text) {
    for (const std::int32_t id : std::set<std::int32_t>(ids.begin(), ids.end())) {
      texts.set(std::to_string(id), token_text(id));
    }
  }
  out.set("texts", std::move(texts));
  return out;
}

Json blame_of(const Blame& blame, const Report& report) {
  Json layers(Json::Array{});
  for (const Blame::Layer& each : blame.layers) {
    Json row;
    row.set("layer", each.layer);
    row.set("own", each.own_error());
    row.set("lim", each.differences.empty() ? Json() : Json(each.differences.back().max_rel_l2));
    Json seen;
    for (const Difference& point : report.differences) {
      if (semantics_of(point.point) == "residual_after_block" && layer_of(point.point) == each.layer) {
        seen = point.rel_l2;
      }
    }
    row.set("seen", std::move(seen));
    row.set("ok", each.agrees());
    row.set("at", each.finding ? printable(each.finding->point) : "-");
    row.set("here", &each == blame.culprit());
    layers.push(std::move(row));
  }
  Json out;
  out.set("sentence", printable(blame_sentence(blame, report)));
  out.set("layers", std::move(layers));
  return out;
}

std::string place_of(const std::optional<compare::Token>& token) {
  if (!token) return "-";
  return text("p", token->prompt, token->token < 0 ? std::string(" mean") : text(" t", token->token));
}

/// A part of the page that only some runs have: a table, with bars of a column's shares where one is named.
Json part_of(const char* title, std::string words, std::vector<const char*> columns, Json rows) {
  Json names(Json::Array{});
  for (const char* each : columns) names.push(each);
  Json out;
  out.set("title", title);
  out.set("words", std::move(words));
  out.set("columns", std::move(names));
  out.set("rows", std::move(rows));
  return out;
}

Json logits_part(const Report& report) {
  Json rows(Json::Array{});
  for (const Difference& each : report.differences) {
    if (!each.logits) continue;
    const compare::LogitsDifference& logits = *each.logits;
    rows.push(Json::Array{Json(printable(each.point)), Json(logits.num_rows), Json(100 * logits.top1_agreement()),
                          Json(100 * logits.top_k_overlap), Json(logits.kl_mean), Json(logits.kl_p99),
                          Json(logits.kl_max), Json(place_of(logits.kl_max_at)), Json(logits.gap_p50),
                          Json(logits.gap_max), Json(place_of(logits.gap_max_at))});
  }
  if (rows.items().empty()) return nullptr;
  return part_of(
      "Next tokens",
      "The logits as distributions over the next token: KL(reference || candidate) in nats, and how far the "
      "reference's largest logit lies above its next one where the most likely token differs. A small gap is "
      "one that rounding may close.",
      {"point", "rows", "same top-1, %", "top-k overlap, %", "KL mean", "KL p99", "KL max", "KL max at", "gap, median",
       "gap, max", "gap max at"},
      std::move(rows));
}

Json routing_part(const Report& report) {
  Json rows(Json::Array{});
  bool differs = false;
  for (const Difference& each : report.differences) {
    if (!each.routing) continue;
    const compare::RoutingDifference& routing = *each.routing;
    differs = differs || routing.num_rerouted > 0;
    const Difference* block = nullptr;
    for (const Difference& other : report.differences) {
      const bool is_output = semantics_of(other.point) == "residual_after_block";
      if (is_output && layer_of(other.point) == layer_of(each.point)) block = &other;
    }
    const bool is_split = block != nullptr && block->by_route;
    const auto known = [&](double value) { return routing.knows_margins ? Json(value) : Json(); };
    rows.push(
        Json::Array{Json(printable(each.point)), Json(100 * routing.rerouted()), Json(100 * (1 - routing.overlap)),
                    routing.knows_margins ? Json(routing.num_unexplained) : Json(), known(routing.margin_p50),
                    known(routing.margin_max), Json(place_of(routing.margin_max_at)),
                    number_or_null(routing.weights_rel_l2), is_split ? Json(block->by_route->same_rel_l2) : Json(),
                    is_split ? Json(block->by_route->rerouted_rel_l2) : Json(),
                    routing.baseline_rerouted ? Json(100 * *routing.baseline_rerouted) : Json()});
  }
  if (rows.items().empty()) return nullptr;
  Json out = part_of(
      "Routing flips",
      differs ? "Tokens that went to other experts, and the share of choices that are others. Unexplained: the "
                "candidate's own router logits would not have sent them there. The margin is how far the reference's "
                "logit of a dropped expert lies above that of one chosen instead: small ones are noise."
              : "Every token went to the same experts in both runs.",
      {"router", "tokens rerouted, %", "other choices, %", "unexplained", "margin, median", "margin, max", "at",
       "weights rel_l2", "block, same route", "block, rerouted", "baseline rerouted, %"},
      std::move(rows));
  if (differs) out.set("bars", 1);
  return out;
}

/// JSON text that may stand inside a <script>: no "<" ends it.
std::string for_script(std::string json) {
  std::string out;
  out.reserve(json.size());
  for (const char c : json) {
    if (c == '<') {
      out += "\\u003c";
    } else {
      out += c;
    }
  }
  return out;
}

}  // namespace

void write_html(std::ostream& out, const Report& report, const store::Reader& reference, const Blame* blame,
                const TokenText& token_text) {
  Json data;
  data.set("verdict", printable(compare::verdict(report)));
  data.set("agrees", report.agrees() && (blame == nullptr || blame->culprit() == nullptr));
  const Difference* first = report.first_divergence();
  data.set("first", first == nullptr ? Json() : Json(printable(first->point)));
  data.set("rule", first == nullptr ? Json() : Json(printable(first->rule)));
  data.set("passing", report.passing_max_rel_l2());
  Json finding;
  if (report.finding) {
    finding.set("point", printable(report.finding->point));
    finding.set("kind", compare::name_of(report.finding->kind));
    finding.set("words", printable(report.finding->words));
  }
  data.set("finding", std::move(finding));
  data.set("blame", blame == nullptr ? Json() : blame_of(*blame, report));
  data.set("num_prompts", report.num_prompts);
  data.set("num_rows", report.num_rows);
  data.set("prompt_order", report.prompt_order);
  Json sides(Json::Array{});
  sides.push(side_of("reference", report.reference));
  sides.push(side_of("candidate", report.candidate));
  if (report.baseline) sides.push(side_of("baseline", *report.baseline));
  data.set("sides", std::move(sides));
  Json points(Json::Array{});
  for (const Difference& each : report.differences) points.push(point_of(each));
  data.set("points", std::move(points));
  Json skipped(Json::Array{});
  for (const compare::NotCompared& each : report.not_compared) {
    Json item;
    item.set("point", printable(each.point));
    item.set("reason", printable(each.reason));
    skipped.push(std::move(item));
  }
  data.set("skipped", std::move(skipped));
  Json more(Json::Array{});
  if (Json routing = routing_part(report); !routing.is_null()) more.push(std::move(routing));
  if (Json logits = logits_part(report); !logits.is_null()) more.push(std::move(logits));
  data.set("more", std::move(more));
  data.set("heat", heatmap_of(report));
  data.set("tokens", tokens_of(report, reference, token_text));
  constexpr std::string_view kPlace = "<!--DATA-->";
  const std::size_t at = kReportPage.find(kPlace);
  out << kReportPage.substr(0, at) << for_script(data.dump()) << kReportPage.substr(at + kPlace.size());
}

}  // namespace layerprobe::cli
