#include "plan/selection.h"

#include <algorithm>
#include <charconv>
#include <set>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::plan {
namespace {

std::optional<std::int64_t> integer(std::string_view given) {
  given = trimmed(given);
  std::int64_t value = 0;
  const auto [end, problem] = std::from_chars(given.data(), given.data() + given.size(), value);
  if (problem != std::errc{} || end != given.data() + given.size()) return std::nullopt;
  return value;
}

}  // namespace

std::vector<std::int64_t> parse_layers(std::string_view given, std::int64_t num_hidden_layers) {
  const auto refuse = [&](std::string what) {
    return Error({.kind = ErrorKind::usage,
                  .where = "--layers",
                  .what = text("\"", given, "\": ", what),
                  .fix = "write layers as 3, 0-7 or 0,8,-1 (-1 is the last)"});
  };
  const auto layer = [&](std::string_view part) {
    const std::optional<std::int64_t> value = integer(part);
    if (!value) throw refuse(text("\"", part, "\" is no layer"));
    const std::int64_t from_start = *value < 0 ? *value + num_hidden_layers : *value;
    if (from_start < 0 || from_start >= num_hidden_layers) {
      throw refuse(text("layer ", *value, " is not there; the model has layers 0 to ", num_hidden_layers - 1));
    }
    return from_start;
  };
  std::set<std::int64_t> layers;
  for (const std::string& piece : split(given, ',')) {
    const std::string_view part = trimmed(piece);
    const std::size_t dash = part.find('-', 1);  // a dash at the front is a sign
    const std::int64_t first = layer(part.substr(0, dash));
    const std::int64_t last = dash == std::string_view::npos ? first : layer(part.substr(dash + 1));
    if (last < first) throw refuse(text("\"", part, "\" runs backwards"));
    for (std::int64_t each = first; each <= last; ++each) layers.insert(each);
  }
  return {layers.begin(), layers.end()};
}

TokenSelection parse_tokens(std::string_view given) {
  TokenSelection out;
  if (given == "all") return out;
  if (given == "last") return {.kind = TokenSelection::Kind::last, .start = {}, .stop = {}};
  if (given == "mean") return {.kind = TokenSelection::Kind::mean, .start = {}, .stop = {}};
  const auto refuse = [&](std::string what) {
    return Error({.kind = ErrorKind::usage,
                  .where = "--tokens",
                  .what = text("\"", given, "\": ", what),
                  .fix = "write all, last, mean or START:STOP:STEP as in Python, for instance 0:16 or ::8"});
  };
  const std::vector<std::string> parts = split(given, ':');
  if (parts.size() < 2 || parts.size() > 3) throw refuse("is no selection");
  out.kind = TokenSelection::Kind::range;
  const auto part = [&](std::size_t at) -> std::optional<std::int64_t> {
    if (at >= parts.size() || trimmed(parts[at]).empty()) return std::nullopt;
    const std::optional<std::int64_t> value = integer(parts[at]);
    if (!value) throw refuse(text("\"", parts[at], "\" is no integer"));
    return value;
  };
  out.start = part(0);
  out.stop = part(1);
  out.step = part(2).value_or(1);
  if (out.step < 1) throw refuse("the step must be 1 or more");
  return out;
}

CapturedRows select_rows(const TokenSelection& selection, const Prompts& prompts) {
  CapturedRows rows;
  rows.cu_rows.push_back(0);
  for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
    const std::int64_t length = prompts.length(prompt);
    const auto clamped = [&](std::int64_t at) {
      return std::clamp<std::int64_t>(at < 0 ? at + length : at, 0, length);
    };
    std::int64_t start = 0, stop = length, step = 1;
    switch (selection.kind) {
      case TokenSelection::Kind::all:
        break;
      case TokenSelection::Kind::last:
        start = length - 1;
        break;
      case TokenSelection::Kind::mean:
        start = -1, stop = 0;
        break;
      case TokenSelection::Kind::range:
        start = clamped(selection.start.value_or(0));
        stop = clamped(selection.stop.value_or(length));
        step = std::min(selection.step, length + 1);
        break;
    }
    for (std::int64_t position = start; position < stop; position += step) {
      rows.position.push_back(static_cast<std::int32_t>(position));
    }
    rows.cu_rows.push_back(static_cast<std::int64_t>(rows.position.size()));
  }
  return rows;
}

std::vector<ProbePoint> select_points(std::span<const std::string> patterns, std::span<const ProbePoint> available,
                                      std::span<const ProbePoint> all, std::string_view test_type) {
  const auto any = [](std::span<const ProbePoint> points, const std::string& pattern) {
    return std::any_of(points.begin(), points.end(), [&](const ProbePoint& p) { return matches(pattern, p.name); });
  };
  for (const std::string& pattern : patterns) {
    if (any(available, pattern)) continue;
    std::vector<std::string> names;
    for (const ProbePoint& point : available) names.push_back(point.name);
    const std::vector<std::string> nearest = nearest_names(pattern, names);
    const bool elsewhere = any(all, pattern);
    const std::string what =
        elsewhere ? text("\"", pattern, "\" is not computed by --test-type ", test_type, " with these layers")
                  : text("\"", pattern, "\" matches no point of this model");
    std::string fix = "layerprobe inspect MODEL --points lists all names; * stops at a dot, ** does not";
    if (elsewhere && matches(pattern, "lm_head")) fix = "use --test-type full, which has the head";
    if (!elsewhere && !nearest.empty()) fix = text("did you mean ", join(nearest, ", "), "?");
    throw Error({.kind = ErrorKind::usage, .where = "--capture", .what = what, .fix = fix});
  }
  std::vector<ProbePoint> chosen;
  for (const ProbePoint& point : available) {
    const bool wanted = std::any_of(patterns.begin(), patterns.end(),
                                    [&](const std::string& pattern) { return matches(pattern, point.name); });
    if (wanted) chosen.push_back(point);
  }
  return chosen;
}

}  // namespace layerprobe::plan
