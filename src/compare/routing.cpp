// A token was rerouted where the sets of its experts differ; another order of the same experts is the same route.
//
// Where a router chooses its k largest logits, another choice of the candidate is explained when its own logits put
// what it chose above what it dropped: then the logits are to blame, and they are judged by themselves. With a
// selection bias or groups the files do not say what the choice was made by; that shows as choices that are not the
// largest logits.
#include "compare/routing.h"

#include <algorithm>
#include <cmath>
#include <exception>
#include <string_view>
#include <tuple>
#include <utility>

#include "compare/heatmap.h"
#include "compare/row_comparer.h"
#include "compare/row_kernel.h"
#include "compare/sample.h"

namespace layerprobe::compare {
namespace {

constexpr std::int64_t kPieceRows = 4096;
constexpr std::string_view kIndices = ":topk_indices";

/// A point in both files.
struct InBoth {
  std::size_t reference, candidate;
};

std::optional<InBoth> find_in_both(const Routes::Names& reference, const Routes::Names& candidate,
                                   const std::string& name) {
  const auto r = reference.find(name), c = candidate.find(name);
  if (r == reference.end() || c == candidate.end()) return std::nullopt;
  return InBoth{.reference = r->second, .candidate = c->second};
}

/// Rows of any dtype as f64.
std::vector<double> values_of(const store::Reader& reader, std::size_t point, std::int64_t row, std::int64_t count) {
  const ProbePoint& found = reader.points()[point].point;
  const std::int64_t size = count * found.width;
  std::vector<std::byte> bytes(static_cast<std::size_t>(size) * size_of(found.dtype));
  reader.read_rows(point, row, count, bytes);
  std::vector<double> values(static_cast<std::size_t>(size));
  row_kernels().back().widen(found.dtype, bytes.data(), size, values.data());
  return values;
}

std::vector<std::int32_t> ids_of(const store::Reader& reader, std::size_t point, std::int64_t row, std::int64_t count) {
  std::vector<std::int32_t> ids(static_cast<std::size_t>(count * reader.points()[point].point.width));
  reader.read_rows(point, row, count, std::as_writable_bytes(std::span(ids)));
  return ids;
}

/// What two logits may be apart and still be one: the dtype they are stored in has rounded them.
double rounding(Dtype dtype, double value) {
  const double share = dtype == Dtype::bf16  ? 0x1p-8
                       : dtype == Dtype::f16 ? 0x1p-11
                       : dtype == Dtype::f32 ? 0x1p-23
                                             : 0;
  return share * std::fabs(value);
}

bool has_logits(std::span<const std::int32_t> ids, std::int64_t num_experts) {
  return std::ranges::all_of(ids, [&](std::int32_t id) { return id >= 0 && id < num_experts; });
}

/// What a router chooses by, of each of a row's experts, and what rounding may have moved it by.
struct Score {
  double value, rounding;
};

std::vector<Score> scores_of(std::span<const double> logits, Dtype dtype, std::span<const double> bias) {
  std::vector<Score> out;
  for (std::size_t i = 0; i < logits.size(); ++i) {
    if (bias.empty()) {
      out.push_back({.value = logits[i], .rounding = rounding(dtype, logits[i])});
    } else {
      const double sigmoid = 1 / (1 + std::exp(-logits[i]));
      const double slope = sigmoid * (1 - sigmoid);
      out.push_back({.value = sigmoid + bias[i],
                     .rounding = slope * rounding(dtype, logits[i]) + rounding(Dtype::f32, sigmoid + bias[i])});
    }
  }
  return out;
}

/// Are the chosen experts those with the largest scores?
bool are_largest(std::span<const std::int32_t> ids, const std::vector<Score>& scores) {
  if (!has_logits(ids, static_cast<std::int64_t>(scores.size()))) return false;
  std::vector<bool> is_chosen(scores.size());
  Score least_chosen = {.value = std::numeric_limits<double>::infinity(), .rounding = 0};
  Score most_left = {.value = -least_chosen.value, .rounding = 0};
  for (const std::int32_t id : ids) {
    const Score& each = scores[static_cast<std::size_t>(id)];
    is_chosen[static_cast<std::size_t>(id)] = true;
    if (each.value < least_chosen.value) least_chosen = each;
  }
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (!is_chosen[i] && scores[i].value > most_left.value) most_left = scores[i];
  }
  return least_chosen.value >= most_left.value - least_chosen.rounding - most_left.rounding;
}

/// What is known of some rows, one after the other.
struct RouterPartial {
  std::int64_t num_rows = 0, num_rerouted = 0, num_unexplained = 0;
  std::int64_t num_in_both = 0;  // choices that both made
  double margin_max = 0;
  std::int64_t margin_max_row = -1, first_unexplained_row = -1;
  double weights_difference_squares = 0, weights_squares = 0;
  TokenErrors margins;

  void append(const RouterPartial& next) {
    num_rows += next.num_rows;
    num_rerouted += next.num_rerouted;
    num_unexplained += next.num_unexplained;
    num_in_both += next.num_in_both;
    if (next.margin_max > margin_max || margin_max_row < 0) {
      margin_max = next.margin_max;
      margin_max_row = next.margin_max_row;
    }
    if (first_unexplained_row < 0) first_unexplained_row = next.first_unexplained_row;
    weights_difference_squares += next.weights_difference_squares;
    weights_squares += next.weights_squares;
    margins.append(next.margins);
  }
};

/// One router in both files.
struct Router {
  const store::Reader& reference;
  const store::Reader& candidate;
  InBoth indices;
  std::optional<InBoth> logits, weights;
  bool knows_margins = false;
  std::vector<double> bias = {};  // empty: it chooses by its logits

  std::int64_t k() const { return reference.points()[indices.reference].point.width; }
  std::int64_t num_experts() const { return reference.points()[logits->reference].point.width; }

  /// How far the reference's score of an expert that the candidate dropped lies above that of one it chose instead, the
  /// largest there is; and whether the candidate's scores are the other way round.
  std::pair<double, bool> margin(const std::vector<std::int32_t>& dropped, const std::vector<std::int32_t>& added,
                                 const RowRun& at) const {
    const std::vector<double> r = values_of(reference, logits->reference, at.reference_row, 1);
    const std::vector<double> c = values_of(candidate, logits->candidate, at.candidate_row, 1);
    const std::vector<Score> of_r = scores_of(r, reference.points()[logits->reference].point.dtype, bias);
    const std::vector<Score> of_c = scores_of(c, candidate.points()[logits->candidate].point.dtype, bias);
    double margin = 0;
    bool is_explained = true;
    for (const std::int32_t from : dropped) {
      for (const std::int32_t to : added) {
        const auto d = static_cast<std::size_t>(from), a = static_cast<std::size_t>(to);
        margin = std::max(margin, of_r[d].value - of_r[a].value);
        const double allowed = of_c[d].rounding + of_c[a].rounding;
        is_explained = is_explained && of_c[a].value >= of_c[d].value - allowed;  // false for a NaN
      }
    }
    return {margin, is_explained};
  }

  RouterPartial partial_of(const RowRun& rows, std::vector<std::uint8_t>& rerouted) const {
    const auto width = static_cast<std::size_t>(k());
    const std::vector<std::int32_t> r_ids = ids_of(reference, indices.reference, rows.reference_row, rows.count);
    const std::vector<std::int32_t> c_ids = ids_of(candidate, indices.candidate, rows.candidate_row, rows.count);
    std::vector<double> r_weights, c_weights;
    if (weights) {
      r_weights = values_of(reference, weights->reference, rows.reference_row, rows.count);
      c_weights = values_of(candidate, weights->candidate, rows.candidate_row, rows.count);
    }
    RouterPartial partial;
    partial.num_rows = rows.count;
    std::vector<std::int32_t> r, c, dropped, added;
    for (std::int64_t i = 0; i < rows.count; ++i) {
      const std::size_t first = static_cast<std::size_t>(i) * width;
      r.assign(r_ids.begin() + static_cast<std::ptrdiff_t>(first),
               r_ids.begin() + static_cast<std::ptrdiff_t>(first + width));
      c.assign(c_ids.begin() + static_cast<std::ptrdiff_t>(first),
               c_ids.begin() + static_cast<std::ptrdiff_t>(first + width));
      if (r != c) {
        std::ranges::sort(r);
        std::ranges::sort(c);
      }
      if (r == c) {
        partial.num_in_both += k();
        for (std::size_t a = first; weights && a < first + width; ++a) {  // expert by expert
          std::size_t b = first;
          while (c_ids[b] != r_ids[a]) ++b;
          if (!std::isfinite(r_weights[a]) || !std::isfinite(c_weights[b])) continue;
          partial.weights_difference_squares += (c_weights[b] - r_weights[a]) * (c_weights[b] - r_weights[a]);
          partial.weights_squares += r_weights[a] * r_weights[a];
        }
        continue;
      }
      dropped.clear();
      added.clear();
      std::ranges::set_difference(r, c, std::back_inserter(dropped));
      std::ranges::set_difference(c, r, std::back_inserter(added));
      partial.num_in_both += k() - static_cast<std::int64_t>(dropped.size());
      ++partial.num_rerouted;
      const std::int64_t row = rows.reference_row + i;
      rerouted[static_cast<std::size_t>(row)] = 1;
      if (!knows_margins) continue;
      bool is_explained = false;
      if (has_logits(dropped, num_experts()) && has_logits(added, num_experts())) {
        double here = 0;
        std::tie(here, is_explained) =
            margin(dropped, added, {.reference_row = row, .candidate_row = rows.candidate_row + i, .count = 1});
        partial.margins.add(here);
        if (here > partial.margin_max || partial.margin_max_row < 0) {
          partial.margin_max = here;
          partial.margin_max_row = row;
        }
      }
      if (is_explained) continue;
      if (partial.num_unexplained++ == 0) partial.first_unexplained_row = row;
    }
    return partial;
  }

  /// In some of the rows: does (reference, candidate) choose its largest scores? Nearly always counts.
  std::pair<bool, bool> choose_largest(const std::vector<RowRun>& sampled) const {
    std::int64_t num_rows = 0, in_reference = 0, in_candidate = 0;
    const auto count = [&](const store::Reader& reader, std::size_t ids_point, std::size_t logits_point,
                           std::int64_t row, std::int64_t rows) {
      const std::vector<std::int32_t> ids = ids_of(reader, ids_point, row, rows);
      const std::vector<double> values = values_of(reader, logits_point, row, rows);
      const auto width = static_cast<std::size_t>(k()), experts = static_cast<std::size_t>(num_experts());
      const Dtype dtype = reader.points()[logits_point].point.dtype;
      std::int64_t largest = 0;
      for (std::size_t i = 0; i < static_cast<std::size_t>(rows); ++i) {
        largest += are_largest(std::span(ids).subspan(i * width, width),
                               scores_of(std::span(values).subspan(i * experts, experts), dtype, bias));
      }
      return largest;
    };
    for (const RowRun& piece : sampled) {
      num_rows += piece.count;
      in_reference += count(reference, indices.reference, logits->reference, piece.reference_row, piece.count);
      in_candidate += count(candidate, indices.candidate, logits->candidate, piece.candidate_row, piece.count);
    }
    return {in_reference * 50 >= num_rows * 49, in_candidate * 50 >= num_rows * 49};
  }
};

/// Pieces of at most kPieceRows, in order.
std::vector<RowRun> cut(const std::vector<RowRun>& runs) {
  std::vector<RowRun> pieces;
  for (RowRun run : runs) {
    while (run.count > 0) {
      const std::int64_t count = std::min(run.count, kPieceRows);
      pieces.push_back({.reference_row = run.reference_row, .candidate_row = run.candidate_row, .count = count});
      run = {.reference_row = run.reference_row + count,
             .candidate_row = run.candidate_row + count,
             .count = run.count - count};
    }
  }
  return pieces;
}

RouterPartial whole_of(const Router& router, const std::vector<RowRun>& pieces, std::vector<std::uint8_t>& rerouted) {
  constexpr std::size_t kAtOnce = 64;  // a RouterPartial counts margins in 20 KB
  RouterPartial whole;
  for (std::size_t first = 0; first < pieces.size(); first += kAtOnce) {
    const std::size_t count = std::min(kAtOnce, pieces.size() - first);
    std::vector<RouterPartial> partials(count);
    std::exception_ptr failure;
#pragma omp parallel for schedule(dynamic) if (count > 1)
    for (std::size_t i = 0; i < count; ++i) {
      try {
        partials[i] = router.partial_of(pieces[first + i], rerouted);
      } catch (...) {
#pragma omp critical(layerprobe_compare_routing_failure)
        failure = std::current_exception();
      }
    }
    if (failure) std::rethrow_exception(failure);
    for (const RouterPartial& each : partials) whole.append(each);
  }
  return whole;
}

}  // namespace

std::optional<std::string> experts_of_indices(const std::string& canonical_name) {
  if (!canonical_name.ends_with(kIndices)) return std::nullopt;
  return canonical_name.substr(0, canonical_name.size() - kIndices.size());
}

Routes::Routes(const store::Reader& reference, const Names& reference_names, const store::Reader& candidate,
               const Names& candidate_names, const Alignment& alignment, const SelectionBias& selection_bias)
    : reference_(reference),
      reference_names_(reference_names),
      candidate_(candidate),
      candidate_names_(candidate_names),
      alignment_(alignment),
      selection_bias_(selection_bias) {}

std::optional<RoutingDifference> Routes::follow(const std::string& canonical_name) {
  const std::optional<std::string> experts = experts_of_indices(canonical_name);
  if (!experts) return std::nullopt;
  const auto r_point = [&](const InBoth& each) -> const store::Layout::Point& {
    return reference_.points()[each.reference];
  };
  const auto c_point = [&](const InBoth& each) -> const store::Layout::Point& {
    return candidate_.points()[each.candidate];
  };
  /// Stored by both in one width, for at least the rows that `num_rows` counts.
  const auto usable = [&](const std::string& name, bool are_integers, std::int64_t num_rows) -> std::optional<InBoth> {
    const std::optional<InBoth> found = find_in_both(reference_names_, candidate_names_, name);
    if (!found || !r_point(*found).stored || !c_point(*found).stored) return std::nullopt;
    if (r_point(*found).point.width != c_point(*found).point.width || r_point(*found).point.width == 0) {
      return std::nullopt;
    }
    for (const store::Layout::Point* each : {&r_point(*found), &c_point(*found)}) {
      if ((each->point.dtype == Dtype::i32) != are_integers) return std::nullopt;
    }
    if (num_rows >= 0 && alignment_.rows_of(found->reference, found->candidate).num_rows != num_rows) {
      return std::nullopt;
    }
    return found;
  };
  const std::optional<InBoth> indices = usable(canonical_name, /*are_integers=*/true, -1);
  if (!indices) return std::nullopt;
  const Alignment::Shared shared = alignment_.rows_of(indices->reference, indices->candidate);
  Router router = {.reference = reference_,
                   .candidate = candidate_,
                   .indices = *indices,
                   .logits = usable(*experts + ".gate", false, shared.num_rows),
                   .weights = usable(*experts + ":topk_weights", false, shared.num_rows)};
  if (router.weights && r_point(*router.weights).point.width != router.k()) router.weights.reset();
  RoutingDifference out;
  out.num_experts_per_tok = router.k();
  if (router.logits) {
    out.num_experts = router.num_experts();
    const std::vector<RowRun> sampled = sampled_rows(reference_, shared.runs, sample_rows_for(out.num_experts));
    std::tie(out.reference_chooses_largest, out.candidate_chooses_largest) = router.choose_largest(sampled);
    router.knows_margins = out.reference_chooses_largest;
    if (!router.knows_margins && selection_bias_) {
      router.bias = selection_bias_(layer_of(canonical_name));
      if (static_cast<std::int64_t>(router.bias.size()) != out.num_experts) router.bias.clear();
      out.uses_bias = router.knows_margins = !router.bias.empty() && router.choose_largest(sampled).first;
    }
    out.knows_margins = router.knows_margins;
  }
  rerouted_.resize(static_cast<std::size_t>(reference_.rows().num_rows()));
  const RouterPartial whole = whole_of(router, cut(shared.runs), rerouted_);
  out.num_rows = whole.num_rows;
  out.num_rerouted = whole.num_rerouted;
  out.num_unexplained = whole.num_unexplained;
  if (whole.num_rows > 0) {
    out.overlap = static_cast<double>(whole.num_in_both) / static_cast<double>(whole.num_rows * router.k());
  }
  out.margin_p50 = whole.margins.quantile(0.5, whole.margin_max);
  out.margin_max = whole.margin_max;
  if (whole.margin_max_row >= 0) out.margin_max_at = token_of(reference_.rows(), whole.margin_max_row);
  if (whole.first_unexplained_row >= 0) {
    out.first_unexplained = token_of(reference_.rows(), whole.first_unexplained_row);
  }
  if (router.weights) out.weights_rel_l2 = rel_l2_of(whole.weights_difference_squares, whole.weights_squares);
  return out;
}

}  // namespace layerprobe::compare
