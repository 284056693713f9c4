#include "compare/row_comparer.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <tuple>

namespace layerprobe::compare {
namespace {

void count(double value, NonFinite& non_finite) {
  non_finite.nan += std::isnan(value);
  non_finite.inf += std::isinf(value);
}

void add(NonFinite& sum, const NonFinite& next) {
  sum.nan += next.nan;
  sum.inf += next.inf;
}

}  // namespace

Dtype narrower(Dtype a, Dtype b) {
  const auto rank = [](Dtype dtype) {
    switch (dtype) {
      case Dtype::bf16:
        return 0;  // fewer bits of significand than f16
      case Dtype::f16:
        return 1;
      case Dtype::f32:
        return 2;
      case Dtype::f64:
        return 3;
      case Dtype::i32:
        return 4;
    }
    return 4;
  };
  return rank(a) <= rank(b) ? a : b;
}

double rel_l2_of(double difference_squares, double reference_squares) {
  return difference_squares == 0 ? 0.0 : std::sqrt(difference_squares) / std::sqrt(reference_squares);
}

void Partial::append(const Partial& next) {
  difference_squares += next.difference_squares;
  reference_squares += next.reference_squares;
  candidate_squares += next.candidate_squares;
  products += next.products;
  raw_difference_squares += next.raw_difference_squares;
  raw_reference_squares += next.raw_reference_squares;
  absolute_differences += next.absolute_differences;
  plain_difference_squares += next.plain_difference_squares;
  plain_reference_squares += next.plain_reference_squares;
  num_sink_rows += next.num_sink_rows;
  max_abs_reference = std::max(max_abs_reference, next.max_abs_reference);
  if (next.max_abs > max_abs) {
    max_abs = next.max_abs;
    max_abs_row = next.max_abs_row;
    max_abs_at = next.max_abs_at;
  }
  if (next.worst_rel_l2 > worst_rel_l2) {
    worst_rel_l2 = next.worst_rel_l2;
    worst_row = next.worst_row;
  }
  add(reference_non_finite, next.reference_non_finite);
  add(candidate_non_finite, next.candidate_non_finite);
  if (unmatched_non_finite == 0) {
    first_unmatched_row = next.first_unmatched_row;
    first_unmatched = next.first_unmatched;
  }
  unmatched_non_finite += next.unmatched_non_finite;
  bit_equal = bit_equal && next.bit_equal;
}

RowComparer::RowComparer(Dtype reference_dtype, Dtype candidate_dtype, std::int64_t width, const Massive& massive)
    : kernels_(row_kernels().back()),
      massive_(massive),
      reference_dtype_(reference_dtype),
      candidate_dtype_(candidate_dtype),
      judged_dtype_(narrower(reference_dtype, candidate_dtype)),
      width_(width),
      reference_values_(static_cast<std::size_t>(width)),
      candidate_values_(static_cast<std::size_t>(width)),
      rounded_(reference_dtype == candidate_dtype ? 0 : static_cast<std::size_t>(width) * size_of(judged_dtype_)) {}

RowError RowComparer::add(const std::byte* reference, const std::byte* candidate, std::int64_t row, bool is_rerouted,
                          Partial& partial) {
  RowSums raw, judged;
  const std::int64_t unmatched_before = partial.unmatched_non_finite;
  if (reference_dtype_ == candidate_dtype_) {
    const std::size_t row_bytes = static_cast<std::size_t>(width_) * size_of(judged_dtype_);
    const bool are_equal = std::memcmp(reference, candidate, row_bytes) == 0;
    if (are_equal) {
      ulps_[0] += width_;
    } else {
      partial.bit_equal = false;
      kernels_.ulps(judged_dtype_, reference, candidate, width_, ulps_.data());
    }
    raw = judged = judge(reference, candidate, are_equal, row, is_rerouted, partial);
  } else {
    partial.bit_equal = false;
    widen(reference_dtype_, reference, candidate_dtype_, candidate);
    const bool rounds_candidate = judged_dtype_ == reference_dtype_;
    kernels_.narrow(judged_dtype_, (rounds_candidate ? candidate_values_ : reference_values_).data(), width_,
                    rounded_.data());
    raw = difference_of_values();
    if (!std::isfinite(raw.reference_squares) || !std::isfinite(raw.candidate_squares)) {
      blank_non_finite();
      raw = difference_of_values();
    }
    if (rounds_candidate) {
      judged = judge(reference, rounded_.data(), /*are_equal=*/false, row, is_rerouted, partial);
    } else {
      judged = judge(rounded_.data(), candidate, /*are_equal=*/false, row, is_rerouted, partial);
    }
  }
  partial.raw_difference_squares += raw.difference_squares;
  partial.raw_reference_squares += raw.reference_squares;
  return {.rel_l2 = rel_l2_of(judged.difference_squares, judged.reference_squares),
          .difference_squares = judged.difference_squares,
          .reference_squares = judged.reference_squares,
          .is_unmatched = partial.unmatched_non_finite != unmatched_before};
}

/// Adds a row that is of the judged dtype on both sides. Gives its sums. Where it is known that both are the same, less
/// work is done for them.
RowSums RowComparer::judge(const std::byte* reference, const std::byte* candidate, bool are_equal, std::int64_t row,
                           bool is_rerouted, Partial& partial) {
  RowSums sums = are_equal ? kernels_.same(judged_dtype_, reference, width_)
                           : kernels_.difference(judged_dtype_, reference, candidate, width_);
  const bool is_finite = std::isfinite(sums.reference_squares) && std::isfinite(sums.candidate_squares);
  if (!is_finite) {
    widen(judged_dtype_, reference, judged_dtype_, candidate);
    count_non_finite(row, partial);
    blank_non_finite();
    sums = difference_of_values();
  }
  partial.difference_squares += sums.difference_squares;
  partial.reference_squares += sums.reference_squares;
  partial.candidate_squares += sums.candidate_squares;
  partial.products += sums.products;
  partial.absolute_differences += sums.absolute_differences;
  if (!is_rerouted) add_plain(sums, reference, candidate, !is_finite, partial);
  partial.max_abs_reference = std::max(partial.max_abs_reference, sums.max_abs_reference);
  if (sums.max_abs_difference > partial.max_abs) {  // seldom: the row is gone through again for the channel
    if (is_finite) widen(judged_dtype_, reference, judged_dtype_, candidate);
    partial.max_abs = sums.max_abs_difference;
    partial.max_abs_row = row;
    partial.max_abs_at = element_with_difference(sums.max_abs_difference);
  }
  const double rel_l2 = rel_l2_of(sums.difference_squares, sums.reference_squares);
  if (rel_l2 > partial.worst_rel_l2) {
    partial.worst_rel_l2 = rel_l2;
    partial.worst_row = row;
  }
  return sums;
}

/// Without the massive channels, or not at all where the row is a sink's. Leaves the values as they were widened
/// before.
void RowComparer::add_plain(const RowSums& sums, const std::byte* reference, const std::byte* candidate,
                            bool is_widened, Partial& partial) {
  if (sums.reference_squares > massive_.sink_squares) {
    ++partial.num_sink_rows;
    return;
  }
  double difference_squares = sums.difference_squares, reference_squares = sums.reference_squares;
  if (!massive_.channels.empty()) {
    if (!is_widened) widen(judged_dtype_, reference, judged_dtype_, candidate);
    for (const std::int64_t channel : massive_.channels) {
      const auto i = static_cast<std::size_t>(channel);
      kept_.push_back({reference_values_[i], candidate_values_[i]});
      reference_values_[i] = candidate_values_[i] = 0;
    }
    const RowSums rest = difference_of_values();
    difference_squares = rest.difference_squares;
    reference_squares = rest.reference_squares;
    for (std::size_t k = 0; k < kept_.size(); ++k) {
      const auto i = static_cast<std::size_t>(massive_.channels[k]);
      std::tie(reference_values_[i], candidate_values_[i]) = kept_[k];
    }
    kept_.clear();
  }
  partial.plain_difference_squares += difference_squares;
  partial.plain_reference_squares += reference_squares;
}

void RowComparer::widen(Dtype reference_dtype, const std::byte* reference, Dtype candidate_dtype,
                        const std::byte* candidate) {
  kernels_.widen(reference_dtype, reference, width_, reference_values_.data());
  kernels_.widen(candidate_dtype, candidate, width_, candidate_values_.data());
}

RowSums RowComparer::difference_of_values() const {
  return kernels_.difference(Dtype::f64, reference_values_.data(), candidate_values_.data(), width_);
}

/// Zeroes both values where one is NaN or infinite.
void RowComparer::blank_non_finite() {
  for (std::size_t i = 0; i < reference_values_.size(); ++i) {
    if (std::isfinite(reference_values_[i]) && std::isfinite(candidate_values_[i])) continue;
    reference_values_[i] = candidate_values_[i] = 0;
  }
}

void RowComparer::count_non_finite(std::int64_t row, Partial& partial) const {
  for (std::size_t i = 0; i < reference_values_.size(); ++i) {
    const double r = reference_values_[i];
    const double c = candidate_values_[i];
    if (std::isfinite(r) && std::isfinite(c)) continue;
    count(r, partial.reference_non_finite);
    count(c, partial.candidate_non_finite);
    const bool is_matched = r == c || (std::isnan(r) && std::isnan(c));
    if (is_matched || partial.unmatched_non_finite++ != 0) continue;
    partial.first_unmatched_row = row;
    partial.first_unmatched = {.token = {}, .channel = static_cast<std::int64_t>(i), .reference = r, .candidate = c};
  }
}

/// Of the values, the first that differs by that.
Element RowComparer::element_with_difference(double max_abs) const {
  std::size_t i = 0;
  while (i + 1 < reference_values_.size() && std::fabs(candidate_values_[i] - reference_values_[i]) != max_abs) ++i;
  return {.token = {},
          .channel = static_cast<std::int64_t>(i),
          .reference = reference_values_[i],
          .candidate = candidate_values_[i]};
}

}  // namespace layerprobe::compare
