#include "cli/blame.h"

#include <cstdlib>
#include <filesystem>
#include <utility>

#include "base/error.h"
#include "base/probe_point.h"
#include "base/text.h"
#include "compare/align.h"
#include "model/config.h"
#include "model/points.h"
#include "weights/checkpoint.h"

namespace layerprobe::cli {
namespace {

/// A new folder for temporary files, removed with all it holds.
class ScratchFolder {
 public:
  ScratchFolder() {
    const std::filesystem::path parent = std::filesystem::temp_directory_path();
    std::string name = (parent / "layerprobe-blame-XXXXXX").string();
    if (mkdtemp(name.data()) == nullptr) {
      throw Error({.kind = ErrorKind::resource,
                   .where = parent.string(),
                   .what = "no folder can be made in it for the values of one layer at a time",
                   .fix = "set TMPDIR to a folder with space for one layer's captures"});
    }
    path_ = name;
  }
  ScratchFolder(const ScratchFolder&) = delete;
  ScratchFolder& operator=(const ScratchFolder&) = delete;
  ~ScratchFolder() {
    std::error_code ignored;
    std::filesystem::remove_all(path_, ignored);
  }
  const std::filesystem::path& path() const { return path_; }

 private:
  std::filesystem::path path_;
};

/// Under either spelling: with model.language_model. or without.
bool is_stored(const store::Reader& reference, const std::string& name) {
  for (const store::Layout::Point& each : reference.points()) {
    if (each.stored && compare::canonical_name(each.point.name) == compare::canonical_name(name)) return true;
  }
  return false;
}

bool has_input_of(const store::Reader& reference, int layer) {
  return is_stored(reference, text("model.layers.", layer, ":input")) ||
         is_stored(reference, layer == 0 ? std::string("model.embed_tokens") : text("model.layers.", layer - 1));
}

std::string layers_text(const std::vector<int>& layers) {
  if (layers.size() == 1) return text("layer ", layers.front());
  if (layers.back() - layers.front() + 1 == static_cast<int>(layers.size())) {
    return text("layers ", layers.front(), " to ", layers.back());
  }
  std::vector<std::string> names;
  for (const int layer : layers) names.push_back(std::to_string(layer));
  return "layers " + join(names, ", ");
}

}  // namespace

double Blame::Layer::own_error() const { return differences.empty() ? 0 : differences.back().error(); }

const Blame::Layer* Blame::culprit() const {
  for (const Layer& each : layers) {
    if (!each.agrees()) return &each;
  }
  return nullptr;
}

Blame blame_layers(const store::Reader& reference, const runtime::RunOptions& options, const compare::Rules& rules,
                   const std::function<void(double)>& progress) {
  const weights::Checkpoint checkpoint = weights::Checkpoint::open(options.model);
  const model::ModelConfig config =
      model::read_config(checkpoint.config(), (checkpoint.path() / "config.json").string());
  const ScratchFolder scratch;
  compare::Rules own_rules = {.max_rel_l2 = {}, .exact = false, .points = {}, .thresholds = rules.thresholds};
  own_rules.is_one_block = true;
  own_rules.selection_bias = rules.selection_bias;
  Blame blame;
  blame.dtype = options.dtype;
  for (std::int64_t i = 0; i < config.num_hidden_layers; ++i) {
    const int layer = static_cast<int>(i);
    progress(static_cast<double>(i) / static_cast<double>(config.num_hidden_layers));
    std::vector<std::string> points;
    for (const model::LayerPoint& point : model::layer_points(config, i, Dtype::bf16)) {  // for their names
      const std::string name = model::layer_point_name(i, point.suffix);
      if (point.suffix != ":input" && point.suffix != ".input_layernorm:input" && is_stored(reference, name)) {
        points.push_back(name);
      }
    }
    if (points.empty()) continue;
    if (!has_input_of(reference, layer)) {
      blame.skipped.push_back(text("layer ", layer, ": the reference does not have what entered it"));
      continue;
    }
    runtime::RunOptions run = options;
    run.request = {.test_type = plan::TestType::single,
                   .layers = std::to_string(layer),
                   .capture = points,
                   .tokens = "all",
                   .tokens_per_batch = 0,
                   .has_prompts = false};
    run.input = {};
    run.input.hidden_states_file = reference.path().string();
    run.output = (scratch.path() / "layer.h5").string();
    run.if_exists = store::Writer::IfExists::overwrite;
    runtime::run(run, {});
    const store::Reader own(run.output);
    own_rules.points = points;
    compare::Report report = compare::compare_runs(reference, own, own_rules);
    blame.layers.push_back(
        {.layer = layer, .differences = std::move(report.differences), .finding = std::move(report.finding)});
  }
  if (!blame.layers.empty()) return blame;
  throw Error({.kind = ErrorKind::input,
               .where = reference.path().string(),
               .what = text("holds no layer of this model together with what entered it"),
               .fix = "capture the reference with the output of every layer, as extract-all does"});
}

std::string blame_sentence(const Blame& blame, const compare::Report& report) {
  std::vector<int> guilty, inherits;
  for (const Blame::Layer& each : blame.layers) {
    if (!each.agrees()) guilty.push_back(each.layer);
  }
  for (const Blame::Layer& each : blame.layers) {
    if (!each.agrees()) continue;
    for (const compare::Difference& point : report.differences) {
      if (!point.agrees && semantics_of(point.point) == "residual_after_block" && layer_of(point.point) == each.layer) {
        inherits.push_back(each.layer);
      }
    }
  }
  if (guilty.empty()) {
    std::string out = text("no block is at fault: fed what the reference's blocks got, all ", blame.layers.size(),
                           " stay within their limits in ", blame.dtype);
    if (!inherits.empty()) {
      out += text("; that ", layers_text(inherits), (inherits.size() == 1 ? " is" : " are"),
                  " off in the candidate comes from before the blocks, from "
                  "another engine than this one, or has grown over many layers");
    }
    return out;
  }
  const Blame::Layer& first = *blame.culprit();
  const compare::Difference* at = nullptr;
  for (const compare::Difference& each : first.differences) {
    if (each.point == first.finding->point) at = &each;
  }
  std::string out = text("model.layers.", first.layer, " is the first whose own error is above its limit");
  if (at != nullptr && at->routing) {
    out += text(": ", at->point, ": ", at->routing->num_rerouted, " of ", at->routing->num_rows,
                " tokens went to other experts");
  } else if (at != nullptr) {
    out +=
        text(": ", at->point, " ", compare::rel_l2_text(at->error()), " over ", compare::rel_l2_text(at->max_rel_l2));
  }
  if (!first.finding->words.empty()) out += ": " + first.finding->words;
  guilty.erase(guilty.begin());
  if (!guilty.empty()) out += "; so is that of " + layers_text(guilty);
  if (!inherits.empty())
    out += text("; ", layers_text(inherits), inherits.size() == 1 ? " inherits it" : " inherit it");
  return out;
}

}  // namespace layerprobe::cli
