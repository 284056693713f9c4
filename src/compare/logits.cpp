// KL(p || q) of two rows of logits r and c is sum p (r - c) - (log sum e^r - log sum e^c): one pass once both maxima
// are known, and exactly 0 for equal rows.
#include "compare/logits.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>
#include <limits>
#include <optional>
#include <span>

namespace layerprobe::compare {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();

/// The ids of the largest logits of a row, the lower id first among equals.
struct Ranked {
  std::array<std::size_t, kLogitsTopK> ids{};
  std::size_t count = 0;
};

/// Nothing where the row is no distribution: it has a NaN or +infinity, or all of it is -infinity, which is a token
/// that cannot come.
std::optional<Ranked> ranked(std::span<const double> row) {
  Ranked out;
  double least = -kInf;  // of the ranks, once all are taken
  for (std::size_t i = 0; i < row.size(); ++i) {
    const double x = row[i];
    if (!(x < kInf)) return std::nullopt;
    if (out.count == out.ids.size() && !(x > least)) continue;
    std::size_t at = out.count == out.ids.size() ? out.count - 1 : out.count++;
    for (; at > 0 && row[out.ids[at - 1]] < x; --at) out.ids[at] = out.ids[at - 1];
    out.ids[at] = i;
    least = row[out.ids[out.count - 1]];
  }
  if (out.count == 0 || row[out.ids[0]] == -kInf) return std::nullopt;
  return out;
}

/// Infinite where the candidate rules out what the reference does not.
double kl_of(std::span<const double> reference, double reference_max, std::span<const double> candidate,
             double candidate_max) {
  double reference_sum = 0, candidate_sum = 0, weighted = 0;
  for (std::size_t i = 0; i < reference.size(); ++i) {
    const double p = std::exp(reference[i] - reference_max);
    reference_sum += p;
    candidate_sum += std::exp(candidate[i] - candidate_max);
    if (p > 0) weighted += p * (reference[i] - candidate[i]);
  }
  const double log_sums = (reference_max + std::log(reference_sum)) - (candidate_max + std::log(candidate_sum));
  return std::max(0.0, weighted / reference_sum - log_sums);
}

double overlap_of(const Ranked& reference, const Ranked& candidate) {
  std::size_t in_both = 0;
  for (std::size_t i = 0; i < reference.count; ++i) {
    const auto* const end = candidate.ids.begin() + candidate.count;
    in_both += std::find(candidate.ids.begin(), end, reference.ids[i]) != end;
  }
  return static_cast<double>(in_both) / static_cast<double>(reference.count);
}

}  // namespace

void LogitsPartial::append(const LogitsPartial& next) {
  num_rows += next.num_rows;
  num_left_out += next.num_left_out;
  num_same_top1 += next.num_same_top1;
  kl_sum += next.kl_sum;
  overlap_sum += next.overlap_sum;
  if (next.kl_max > kl_max) {
    kl_max = next.kl_max;
    kl_max_row = next.kl_max_row;
  }
  if (next.gap_max > gap_max || gap_max_row < 0) {
    gap_max = next.gap_max;
    gap_max_row = next.gap_max_row;
  }
}

LogitsComparer::LogitsComparer(Dtype reference_dtype, Dtype candidate_dtype, std::int64_t width)
    : kernels_(row_kernels().back()),
      reference_dtype_(reference_dtype),
      candidate_dtype_(candidate_dtype),
      width_(width),
      reference_values_(static_cast<std::size_t>(width)),
      candidate_values_(static_cast<std::size_t>(width)) {}

void LogitsComparer::add(const std::byte* reference, const std::byte* candidate, std::int64_t row,
                         LogitsPartial& partial) {
  kernels_.widen(reference_dtype_, reference, width_, reference_values_.data());
  kernels_.widen(candidate_dtype_, candidate, width_, candidate_values_.data());
  const std::optional<Ranked> r = ranked(reference_values_), c = ranked(candidate_values_);
  if (!r || !c) {
    ++partial.num_left_out;
    return;
  }
  ++partial.num_rows;
  const double kl =
      std::equal(reference_values_.begin(), reference_values_.end(), candidate_values_.begin())
          ? 0.0
          : kl_of(reference_values_, reference_values_[r->ids[0]], candidate_values_, candidate_values_[c->ids[0]]);
  kl_.add(kl);
  partial.kl_sum += kl;
  if (kl > partial.kl_max) {
    partial.kl_max = kl;
    partial.kl_max_row = row;
  }
  partial.overlap_sum += overlap_of(*r, *c);
  if (r->ids[0] == c->ids[0]) {
    ++partial.num_same_top1;
    return;
  }
  const double gap = reference_values_[r->ids[0]] - reference_values_[r->ids[1]];  // two ids: the width is over 1
  gaps_.add(gap);
  if (gap > partial.gap_max || partial.gap_max_row < 0) {
    partial.gap_max = gap;
    partial.gap_max_row = row;
  }
}

}  // namespace layerprobe::compare
