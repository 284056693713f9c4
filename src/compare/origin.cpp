#include "compare/origin.h"

#include <algorithm>
#include <cmath>
#include <span>
#include <string_view>

#include "base/text.h"
#include "compare/routing.h"
#include "compare/sample.h"

namespace layerprobe::compare {
namespace {

using ByName = std::map<std::string, const Difference*>;

ByName by_name(const std::vector<Difference>& differences) {
  ByName out;
  for (const Difference& each : differences) out.emplace(canonical_name(each.point), &each);
  return out;
}

std::string layer_name(int layer) { return text("model.layers.", layer); }

/// The point whose value enters that of `name` on the residual stream: what fed the layer, where that was captured,
/// else what left the layer before. "" for the embedding, which nothing enters; nothing for a point off the stream.
template <typename Map>
std::optional<std::string> residual_input(const std::string& name, const Map& all) {
  const std::string canonical = canonical_name(name);
  const std::string_view semantics = semantics_of(canonical);
  if (semantics == "embedding") return "";
  if (semantics == "residual_after_block") {
    const int layer = layer_of(canonical);
    const std::string own_input = canonical + ":input";
    if (all.contains(own_input)) return own_input;
    return layer == 0 ? std::string("model.embed_tokens") : layer_name(layer - 1);
  }
  if (semantics == "post_final_norm") {
    int last = -1;
    for (const auto& [other, value] : all) {
      if (semantics_of(other) == "residual_after_block") last = std::max(last, layer_of(other));
    }
    return layer_name(last);
  }
  return std::nullopt;
}

/// rel_l2 of some rows of two points, the candidate's under another name; nothing where they cannot be compared.
std::optional<double> sampled_rel_l2(const Files& files, const std::string& reference_name,
                                     const std::string& candidate_name) {
  constexpr std::int64_t kRows = 64;
  const auto r = files.reference_points.find(reference_name);
  const auto c = files.candidate_points.find(candidate_name);
  if (r == files.reference_points.end() || c == files.candidate_points.end()) return std::nullopt;
  const store::Layout::Point& r_point = files.reference.points()[r->second];
  const store::Layout::Point& c_point = files.candidate.points()[c->second];
  if (!r_point.stored || !c_point.stored || r_point.point.width != c_point.point.width) return std::nullopt;
  const Alignment::Shared shared = files.alignment.rows_of(r->second, c->second);
  const std::vector<RowRun> rows =
      sampled_rows(files.reference, shared.runs, std::min(kRows, sample_rows_for(r_point.point.width)));
  const Sample sample = read_sample(files.reference, r->second, files.candidate, c->second, rows);
  double difference = 0, norm = 0;
  for (std::size_t i = 0; i < sample.reference.size(); ++i) {
    const double a = sample.reference[i], b = sample.candidate[i];
    if (!std::isfinite(a) || !std::isfinite(b)) continue;
    difference += (a - b) * (a - b);
    norm += a * a;
  }
  if (sample.reference.empty() || norm == 0) return std::nullopt;
  return std::sqrt(difference / norm);
}

double median_of(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

constexpr double kIsTheSame = 0.2;  // another name explains the values when this share of the difference is left

/// Is model.layers.(K + offset) of the candidate the reference's model.layers.K?
std::optional<Finding> layer_offset(const Files& files, const Difference& first) {
  std::vector<int> layers;
  for (const auto& [name, index] : files.reference_points) {
    if (semantics_of(name) == "residual_after_block") layers.push_back(layer_of(name));
  }
  std::ranges::sort(layers);
  for (const int offset : {1, -1}) {
    std::vector<double> own, other;
    for (const int layer : layers) {
      const std::optional<double> there = sampled_rel_l2(files, layer_name(layer), layer_name(layer + offset));
      const std::optional<double> here = sampled_rel_l2(files, layer_name(layer), layer_name(layer));
      if (!there || !here) continue;
      other.push_back(*there);
      own.push_back(*here);
    }
    if (own.size() < 2 || !(median_of(own) > 0)) continue;
    if (median_of(other) > kIsTheSame * median_of(own)) continue;
    const std::string number = offset > 0 ? "K+1" : "K-1";
    return Finding{
        .point = first.point,
        .kind = Kind::layer_offset,
        .words = text("matches with layer offset ", (offset > 0 ? "+1" : "-1"), ": the candidate's model.layers.",
                      number, " is the reference's model.layers.K (rel_l2 ", rel_l2_text(median_of(other)), ")")};
  }
  return std::nullopt;
}

/// Was the last layer's value taken behind model.norm, or model.norm's in front of it?
std::optional<Finding> post_norm(const Files& files, const Difference& first) {
  const std::string name = canonical_name(first.point);
  const std::string_view semantics = semantics_of(name);
  int last = -1;
  for (const auto& [other, index] : files.reference_points) {
    if (semantics_of(other) == "residual_after_block") last = std::max(last, layer_of(other));
  }
  if (last < 0 || (name != layer_name(last) && semantics != "post_final_norm")) return std::nullopt;
  const bool is_layer = name == layer_name(last);
  const std::optional<double> here = sampled_rel_l2(files, name, name);
  std::optional<double> there =
      is_layer ? sampled_rel_l2(files, "model.norm", name) : sampled_rel_l2(files, layer_name(last), name);
  if (!here || !there || *there > kIsTheSame * *here) return std::nullopt;
  return Finding{.point = first.point,
                 .kind = Kind::post_norm,
                 .words = is_layer ? "it is the value behind model.norm (transformers' last hidden state), not what "
                                     "leaves the layer"
                                   : "it is what leaves the last layer, in front of model.norm"};
}

/// What the error of a point stands on: that of what entered its block, 0 where that was not compared.
double error_before(const std::string& name, const ByName& all) {
  const int layer = layer_of(name);
  std::optional<std::string> input;
  if (layer >= 0 && name.starts_with(layer_name(layer)) && name.ends_with(":input") &&
      (name == layer_name(layer) + ":input" || name == layer_name(layer) + ".input_layernorm:input")) {
    input = layer == 0 ? std::string("model.embed_tokens") : layer_name(layer - 1);  // it is what entered
  } else if (layer >= 0) {
    input = residual_input(layer_name(layer), all);
  } else {
    input = residual_input(name, all);
  }
  if (!input || input->empty()) return 0;
  const auto found = all.find(*input);
  return found == all.end() ? 0 : found->second->error_over_baseline();
}

/// The first point of the layer that is far worse than what entered the layer; the layer's own output if none is.
const Difference& first_inside(int layer, const std::vector<Difference>& differences, const ByName& all,
                               const Difference& output) {
  constexpr double kJump = 3;
  const double before = error_before(layer_name(layer), all);
  for (const Difference& each : differences) {
    if (&each == &output) break;
    const std::string name = canonical_name(each.point);
    if (layer_of(name) != layer || name == layer_name(layer) + ":input") continue;
    if (each.routing) {
      if (!each.agrees) return each;
      continue;  // how far the numbers of experts lie apart says nothing
    }
    if (each.unmatched_non_finite > 0 || each.error() > std::max(kJump * before, output.error() / 2)) return each;
  }
  return output;
}

/// The layer before `first`, or its own, that added at least half of what `first` is off by.
const Difference* who_added(const std::vector<Difference>& differences, const Difference& first) {
  for (const Difference& each : differences) {
    if (each.added && *each.added >= first.error() / 2) return &each;
    if (&each == &first) break;
  }
  return nullptr;
}

Dtype computed_by(const store::Reader& reader, Dtype stored) {
  const auto found = reader.attributes().find("dtype");
  if (found == reader.attributes().end()) return stored;
  const auto* name = std::get_if<std::string>(&found->second);
  return name == nullptr ? stored : find_dtype(*name).value_or(stored);
}

std::optional<std::int64_t> row_of(const store::Reader& reference, const std::optional<WorstToken>& worst) {
  if (!worst) return std::nullopt;
  const CapturedRows& rows = reference.rows();
  const auto prompt = static_cast<std::size_t>(worst->token.prompt);
  for (std::int64_t row = rows.cu_rows[prompt]; row < rows.cu_rows[prompt + 1]; ++row) {
    if (rows.position[static_cast<std::size_t>(row)] == worst->token.token) return row;
  }
  return std::nullopt;
}

/// What hides a difference is no part of it.
void leave_out(const Massive& massive, Sample& sample) {
  for (std::int64_t row = 0; row < sample.num_rows(); ++row) {
    double squares = 0;
    for (std::int64_t i = 0; i < sample.width; ++i) squares += sample.r(row)[i] * sample.r(row)[i];
    for (std::int64_t i = 0; i < sample.width; ++i) {
      if (squares <= massive.sink_squares && !std::ranges::binary_search(massive.channels, i)) continue;
      const auto at = static_cast<std::size_t>(row * sample.width + i);
      sample.reference[at] = sample.candidate[at] = 0;
    }
  }
}

Diagnosis diagnosis_of_routing(const RoutingDifference& routing) {
  std::string words = "other experts were chosen";
  if (routing.candidate_chooses_largest && !routing.reference_chooses_largest && routing.num_experts > 0) {
    words =
        "the candidate chooses its largest router logits and the reference does not: a selection bias, or the choice "
        "of groups, is left out";
  } else if (routing.reference_chooses_largest && !routing.candidate_chooses_largest) {
    words =
        "the reference chooses its largest router logits and the candidate does not: its numbers of experts, or its "
        "way of choosing, are others";
  } else if (routing.num_unexplained > 0) {
    words = "other experts were chosen than the candidate's own router logits say";
  }
  return {Kind::routing, words};
}

/// The rows whose tokens went to the same experts in every router up to the point; all where none are left.
std::vector<RowRun> with_same_route(const Files& files, const std::string& name, const std::vector<RowRun>& rows) {
  static const SelectionBias kNoBias;  // which tokens went elsewhere does not hang on it
  Routes routes(files.reference, files.reference_points, files.candidate, files.candidate_points, files.alignment,
                kNoBias);
  for (const store::Layout::Point& each : files.reference.points()) {
    const std::string router = canonical_name(each.point.name);
    routes.follow(router);
    if (router == name) break;
  }
  std::vector<RowRun> out;
  for (const RowRun& run : rows) {
    for (std::int64_t i = 0; i < run.count; ++i) {
      if (routes.rerouted()[static_cast<std::size_t>(run.reference_row + i)] != 0) continue;
      const bool goes_on =
          !out.empty() && i > 0 && out.back().reference_row + out.back().count == run.reference_row + i;
      if (goes_on) {
        ++out.back().count;
      } else {
        out.push_back({.reference_row = run.reference_row + i, .candidate_row = run.candidate_row + i, .count = 1});
      }
    }
  }
  return out.empty() ? rows : out;
}

/// The experts of those rows on one side, [num_rows, k]; empty where that is not known.
std::vector<std::int32_t> experts_of(const store::Reader& reader, const std::map<std::string, std::size_t>& points,
                                     const std::string& experts, const std::vector<RowRun>& rows, bool is_reference) {
  const auto found = points.find(experts + ":topk_indices");
  std::vector<std::int32_t> out;
  if (found == points.end()) return out;
  const store::Layout::Point& point = reader.points()[found->second];
  if (!point.stored || point.point.dtype != Dtype::i32) return out;
  for (const RowRun& run : rows) {
    const std::size_t from = out.size();
    out.resize(from + static_cast<std::size_t>(run.count * point.point.width));
    reader.read_rows(found->second, is_reference ? run.reference_row : run.candidate_row, run.count,
                     std::as_writable_bytes(std::span(out).subspan(from)));
  }
  return out;
}

/// What the experts' sum, or what leaves their block, looks like from the tokens' experts.
std::optional<Diagnosis> diagnosis_of_experts(const Files& files, const std::string& name,
                                              const std::vector<RowRun>& rows, const Sample& sample) {
  std::string experts = semantics_of(name) == "residual_after_block" ? name + ".mlp" : name;
  if (constexpr std::string_view kSum = ".experts"; experts.ends_with(".mlp.experts")) {
    experts.resize(experts.size() - kSum.size());
  }
  if (!experts.ends_with(".mlp")) return std::nullopt;
  const std::vector<std::int32_t> ids = experts_of(files.reference, files.reference_points, experts, rows, true);
  if (ids.empty()) return std::nullopt;
  return diagnose_experts(sample, ids);
}

constexpr std::string_view kWeights = ":topk_weights";

/// The sample's candidate with each row in the order of the reference's experts; rows with other experts zeroed.
Sample expert_by_expert(const Files& files, const std::string& name, const std::vector<RowRun>& rows, Sample sample) {
  const std::string experts = name.substr(0, name.size() - kWeights.size());
  const auto of_r = experts_of(files.reference, files.reference_points, experts, rows, true);
  const auto of_c = experts_of(files.candidate, files.candidate_points, experts, rows, false);
  const std::size_t size = sample.reference.size(), width = static_cast<std::size_t>(sample.width);
  if (of_r.size() != size || of_c.size() != size) return sample;
  for (std::size_t first = 0; first < size; first += width) {
    const auto* const begin = of_c.data() + first;
    std::vector<double> in_order;
    for (std::size_t i = 0; i < width; ++i) {
      const auto* const at = std::find(begin, begin + width, of_r[first + i]);
      if (at != begin + width) in_order.push_back(sample.candidate[first + static_cast<std::size_t>(at - begin)]);
    }
    if (in_order.size() == width) {
      std::ranges::copy(in_order, sample.candidate.begin() + static_cast<std::ptrdiff_t>(first));
    } else {
      std::fill_n(sample.reference.begin() + static_cast<std::ptrdiff_t>(first), width, 0.0);
      std::fill_n(sample.candidate.begin() + static_cast<std::ptrdiff_t>(first), width, 0.0);
    }
  }
  return sample;
}

Diagnosis diagnosis_of(const Files& files, const Difference& difference, const ByName& all) {
  const std::string name = canonical_name(difference.point);
  if (difference.routing) return diagnosis_of_routing(*difference.routing);
  const std::size_t r = files.reference_points.at(name), c = files.candidate_points.at(name);
  const Alignment::Shared shared = files.alignment.rows_of(r, c);
  std::vector<RowRun> rows = sampled_rows(files.reference, shared.runs, sample_rows_for(difference.width),
                                          row_of(files.reference, difference.worst_token));
  if (difference.judges_same_route) rows = with_same_route(files, name, rows);
  Sample sample = read_sample(files.reference, r, files.candidate, c, rows);
  if (difference.judged_rel_l2() <= difference.max_rel_l2) leave_out(massive_of(files.reference, r, rows), sample);
  const Dtype computed = computed_by(files.candidate, difference.candidate_dtype);
  if (name.ends_with(kWeights)) {
    return diagnose_weights(expert_by_expert(files, name, rows, sample), difference, computed);
  }
  if (difference.unmatched_non_finite == 0) {
    if (const auto found = diagnosis_of_experts(files, name, rows, sample)) return *found;
  }
  Diagnosis diagnosis = diagnose(sample, difference, computed);
  if (diagnosis.kind != Kind::values) return diagnosis;
  // A block adds to what entered it: what it added may have a pattern where the sum has none.
  if (semantics_of(name) != "residual_after_block") return diagnosis;
  const std::optional<std::string> input = residual_input(name, all);
  if (!input || input->empty() || !all.contains(*input)) return diagnosis;
  const std::size_t r_before = files.reference_points.at(*input), c_before = files.candidate_points.at(*input);
  if (files.alignment.rows_of(r_before, c_before).num_rows != shared.num_rows) return diagnosis;
  const Sample before = read_sample(files.reference, r_before, files.candidate, c_before, rows);
  return diagnose_added(sample, before, difference, computed);
}

}  // namespace

void fill_added(std::vector<Difference>& differences) {
  const ByName all = by_name(differences);
  for (Difference& difference : differences) {
    const std::optional<std::string> input = residual_input(difference.point, all);
    if (!input) continue;
    if (input->empty()) {
      difference.added = difference.judged_rel_l2();
    } else if (const auto found = all.find(*input); found != all.end()) {
      difference.added = difference.judged_rel_l2() - found->second->judged_rel_l2();
    }
  }
}

Finding find_origin(const Files& files, const std::vector<Difference>& differences, const Difference& first) {
  if (std::optional<Finding> found = layer_offset(files, first)) return *found;
  if (std::optional<Finding> found = post_norm(files, first)) return *found;
  const ByName all = by_name(differences);
  const Difference* origin = &first;
  const bool is_by_number = first.unmatched_non_finite == 0 && std::isfinite(first.judged_rel_l2()) && !first.routing;
  if (is_by_number) {
    const double before = error_before(canonical_name(first.point), all);
    if (before > first.error() / 2) {  // most of it came in with the layer's input
      origin = who_added(differences, first);
      if (origin == nullptr) {
        return {.point = first.point,
                .kind = Kind::gradual,
                .words = "no layer before adds half of it: the error grows over many layers"};
      }
    }
  }
  const int layer = layer_of(origin->point);
  if (layer >= 0 && is_by_number && semantics_of(canonical_name(origin->point)) == "residual_after_block") {
    origin = &first_inside(layer, differences, all, *origin);
  }
  const Diagnosis diagnosis = diagnosis_of(files, *origin, all);
  return {.point = origin->point, .kind = diagnosis.kind, .words = diagnosis.words};
}

}  // namespace layerprobe::compare
