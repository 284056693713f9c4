#include "plan/plan.h"

#include <algorithm>
#include <array>
#include <numeric>

#include "base/error.h"
#include "base/text.h"
#include "model/points.h"

namespace layerprobe::plan {
namespace {

constexpr std::int64_t kTopK = 10;

constexpr std::array<TestType, 4> kTestTypes = {TestType::single, TestType::multi, TestType::full,
                                                TestType::extract_all};

/// The layers that the test type runs when nothing limits what is kept, and the option's own complaint.
std::vector<std::int64_t> chosen_layers(const Request& request, std::int64_t num_hidden_layers) {
  std::vector<std::int64_t> all(static_cast<std::size_t>(num_hidden_layers));
  std::iota(all.begin(), all.end(), std::int64_t{0});
  if (request.layers.empty()) return request.test_type == TestType::single ? std::vector<std::int64_t>{0} : all;
  std::vector<std::int64_t> layers = parse_layers(request.layers, num_hidden_layers);
  if (request.test_type == TestType::multi &&
      layers.back() - layers.front() + 1 != static_cast<std::int64_t>(layers.size())) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--layers",
                 .what = text("\"", request.layers, "\" has gaps; --test-type multi runs an unbroken range"),
                 .fix = text("write --layers ", layers.front(), "-", layers.back(), ", or use --test-type single")});
  }
  return layers;
}

/// Is the point computed when these layers run, with what comes before and after them?
bool is_computed(const ProbePoint& point, const Plan& plan) {
  const int layer = layer_of(point.name);
  if (layer >= 0) return std::ranges::binary_search(plan.layers, std::int64_t{layer});
  if (semantics_of(point.name) == "embedding") return plan.runs_embedding;
  if (point.name.starts_with("lm_head")) return plan.runs_lm_head;
  return plan.runs_norm;
}

bool is_block(std::string_view name) { return semantics_of(name) == "residual_after_block"; }
bool is_norm(std::string_view name) { return semantics_of(name) == "post_final_norm"; }

/// The points that the test type keeps by itself.
bool is_kept(const std::string& name, TestType type) {
  const bool is_input = name.ends_with(":input");
  switch (type) {
    case TestType::single:
      return !is_input || is_block(name.substr(0, name.rfind(':')));
    case TestType::multi:
      return is_block(name);
    case TestType::full:
      return is_block(name) || is_norm(name) || name == "lm_head";
    case TestType::extract_all:
      return is_block(name) || semantics_of(name) == "embedding" || is_norm(name);
  }
  return false;
}

/// Patterns that say "model." for the decoder of a vision-language model are its decoder's too.
std::vector<std::string> with_decoder(std::vector<std::string> patterns, const model::ModelConfig& config) {
  constexpr std::string_view kModel = "model.";
  for (std::string& pattern : patterns) {
    if (config.decoder == "model" || !pattern.starts_with(kModel) || pattern.starts_with(config.decoder)) continue;
    pattern.replace(0, kModel.size(), config.decoder + ".");
  }
  return patterns;
}

/// What runs before --layers and --capture narrow what is kept.
void set_extent(Plan& plan, const Request& request, const std::vector<std::int64_t>& layers,
                std::int64_t num_hidden_layers) {
  const bool whole = request.test_type == TestType::full || request.test_type == TestType::extract_all;
  if (whole && !request.has_prompts) {
    throw Error({.kind = ErrorKind::usage,
                 .where = text("--test-type ", name_of(request.test_type)),
                 .what = "needs prompts; hidden states are fed to layers by themselves",
                 .fix = "give --prompt or --prompts, or use --test-type single or multi"});
  }
  if (whole) {
    plan.layers.resize(static_cast<std::size_t>(num_hidden_layers));
    std::iota(plan.layers.begin(), plan.layers.end(), std::int64_t{0});
    plan.runs_embedding = plan.runs_norm = true;
    plan.runs_lm_head = request.test_type == TestType::full;
    return;
  }
  plan.layers = layers;
  plan.runs_embedding = request.has_prompts;
  if (!request.has_prompts) return;
  if (request.test_type == TestType::single) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--test-type single",
                 .what = "runs layers by themselves and takes no prompts",
                 .fix = "give --hidden-states FILE.h5 or --random-hidden-states, or use --test-type multi"});
  }
  if (layers.front() != 0) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--layers",
                 .what = text("begin at layer ", layers.front(), ", which prompts cannot be fed to"),
                 .fix = "give --hidden-states FILE.h5 or --random-hidden-states, or begin at layer 0"});
  }
}

/// Leaves out what nothing kept depends on: layers behind the last kept one, the norm, the head.
void drop_what_nothing_needs(Plan& plan) {
  const auto needed = [&](auto predicate) { return std::ranges::any_of(plan.points, predicate); };
  plan.runs_lm_head = needed([](const auto& p) { return p.point.name.starts_with("lm_head"); });
  plan.runs_norm = plan.runs_lm_head || needed([](const auto& p) {
                     const std::string& name = p.point.name;
                     return is_norm(name.substr(0, name.find(':')));
                   });
  if (plan.runs_norm || plan.test_type == TestType::single) return;
  std::int64_t last = -1;
  for (const store::Layout::Point& kept : plan.points) last = std::max<std::int64_t>(last, layer_of(kept.point.name));
  std::erase_if(plan.layers, [&](std::int64_t layer) { return layer > last; });
}

}  // namespace

std::string_view name_of(TestType type) {
  switch (type) {
    case TestType::single:
      return "single";
    case TestType::multi:
      return "multi";
    case TestType::full:
      return "full";
    case TestType::extract_all:
      return "extract-all";
  }
  return "?";
}

TestType parse_test_type(std::string_view name) {
  for (const TestType type : kTestTypes) {
    if (name == name_of(type)) return type;
  }
  throw Error({.kind = ErrorKind::usage,
               .where = "--test-type",
               .what = text("\"", name, "\" is no test type"),
               .fix = "choose single, multi, full or extract-all"});
}

std::optional<std::size_t> Plan::find(std::string_view name) const {
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (points[i].point.name == name) return i;
  }
  return std::nullopt;
}

std::optional<std::size_t> Plan::find_block(std::int64_t layer) const {
  for (std::size_t i = 0; i < points.size(); ++i) {
    if (layer_of(points[i].point.name) == layer && is_block(points[i].point.name)) return i;
  }
  return std::nullopt;
}

Plan make_plan(const model::ModelConfig& config, Dtype dtype, const Prompts& prompts, const Request& request) {
  Plan plan;
  plan.test_type = request.test_type;
  plan.dtype = dtype;
  const std::vector<std::int64_t> layers = chosen_layers(request, config.num_hidden_layers);
  set_extent(plan, request, layers, config.num_hidden_layers);

  const std::vector<ProbePoint> all = model::all_points(config, dtype);
  std::vector<ProbePoint> chosen;
  if (request.capture.empty()) {
    std::ranges::copy_if(all, std::back_inserter(chosen), [&](const ProbePoint& point) {
      return is_kept(point.name, request.test_type) && is_computed(point, plan);
    });
  } else {
    std::vector<ProbePoint> available;
    std::ranges::copy_if(all, std::back_inserter(available),
                         [&](const ProbePoint& point) { return is_computed(point, plan); });
    chosen = select_points(with_decoder(request.capture, config), available, all, name_of(request.test_type));
  }
  // --layers filters what is kept; embedding, norm and head stay.
  std::erase_if(chosen, [&](const ProbePoint& point) {
    const int layer = layer_of(point.name);
    return layer >= 0 && !std::ranges::binary_search(layers, std::int64_t{layer});
  });
  // What was fed in is stored, so that another engine can be fed the same.
  if (!request.has_prompts && request.capture.empty() && request.test_type == TestType::multi) {
    const std::string name = model::layer_point_name(config, layers.front(), ":input");
    chosen.insert(chosen.begin(), *std::ranges::find(all, name, &ProbePoint::name));
  }
  if (chosen.empty()) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--capture",
                 .what = "with these --layers nothing is kept",
                 .fix = "choose layers that the patterns name"});
  }

  const bool is_full = request.test_type == TestType::full;
  const TokenSelection selection = parse_tokens(!request.tokens.empty() ? request.tokens : is_full ? "last" : "all");
  plan.keeps_mean = selection.kind == TokenSelection::Kind::mean;
  plan.rows = select_rows(selection, prompts);
  for (ProbePoint& point : chosen) {
    const bool statistics_only = is_full && request.capture.empty() && is_block(point.name);
    if (plan.keeps_mean && !statistics_only) point.dtype = Dtype::f32;
    plan.points.push_back({.point = point, .stored = !statistics_only});
  }
  const bool ranks = is_full && !plan.keeps_mean && plan.find("lm_head");  // complete when lm_head is
  plan.top_k = ranks ? std::min(kTopK, config.vocab_size) : 0;
  drop_what_nothing_needs(plan);
  plan.tokens_per_batch = request.tokens_per_batch;
  return plan;
}

}  // namespace layerprobe::plan
