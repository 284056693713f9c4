#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <memory>
#include <vector>

namespace layerprobe::compare {

/// The rel_l2 of each row of a point as a byte, at most kMaxColumns of them: where there are more rows, a column is the
/// largest of its rows. 0: no error at all; 1: 1e-10 or less; 250: 1e+3 or more; 251: NaN or infinite on one side;
/// steps are even in the logarithm.
class Heatmap {
 public:
  static constexpr std::int64_t kMaxColumns = 16384;
  static constexpr std::uint8_t kUnmatched = 251;

  Heatmap() = default;
  explicit Heatmap(std::int64_t num_rows)
      : num_rows_(num_rows), values_(static_cast<std::size_t>(std::min(num_rows, kMaxColumns))) {}

  std::int64_t num_rows() const { return num_rows_; }
  const std::vector<std::uint8_t>& values() const { return values_; }
  std::int64_t column_of(std::int64_t row) const {
    return row * static_cast<std::int64_t>(values_.size()) / std::max<std::int64_t>(1, num_rows_);
  }

  /// Any thread: the order does not matter.
  void add(std::int64_t row, double rel_l2, bool is_unmatched) {
    const std::uint8_t value = is_unmatched ? kUnmatched : value_of(rel_l2);
    std::atomic_ref<std::uint8_t> at(values_[static_cast<std::size_t>(column_of(row))]);
    std::uint8_t was = at.load(std::memory_order_relaxed);
    while (was < value && !at.compare_exchange_weak(was, value, std::memory_order_relaxed)) {
    }
  }

  static std::uint8_t value_of(double rel_l2) {
    if (!(rel_l2 > 0)) return 0;
    const double step = (std::log10(rel_l2) + 10) / 13 * 249;
    return static_cast<std::uint8_t>(1 + std::clamp(std::isfinite(step) ? std::floor(step) : 249.0, 0.0, 249.0));
  }

 private:
  std::int64_t num_rows_ = 0;
  std::vector<std::uint8_t> values_;
};

/// Counts of rel_l2 by size, 32 steps an octave: what percentiles are read from in constant memory.
class TokenErrors {
 public:
  void add(double rel_l2) { ++counts_[static_cast<std::size_t>(bucket_of(rel_l2))]; }
  void append(const TokenErrors& other) {
    for (std::size_t i = 0; i < counts_.size(); ++i) counts_[i] += other.counts_[i];
  }
  /// The error that a share of the rows does not pass, within 1.1 %; `most` where it is that bucket's.
  double quantile(double share, double most) const {
    std::int64_t total = 0, seen = 0;
    for (const std::int64_t count : counts_) total += count;
    const auto wanted = static_cast<std::int64_t>(std::ceil(share * static_cast<double>(total)));
    for (int i = 0; i < kBuckets; ++i) {
      seen += counts_[static_cast<std::size_t>(i)];
      if (seen < wanted || seen == 0) continue;
      if (i == 0) return 0;
      if (i == bucket_of(most)) return most;
      return std::exp2((i - 0.5) / kPerOctave - kLeastOctave);
    }
    return 0;
  }

 private:
  static constexpr int kPerOctave = 32, kLeastOctave = 70, kBuckets = 80 * kPerOctave + 1;
  static int bucket_of(double rel_l2) {
    if (!(rel_l2 > 0)) return 0;
    if (!std::isfinite(rel_l2)) return kBuckets - 1;
    return 1 + static_cast<int>(std::clamp(std::floor((std::log2(rel_l2) + kLeastOctave) * kPerOctave), 0.0,
                                           static_cast<double>(kBuckets - 2)));
  }
  std::vector<std::int64_t> counts_ = std::vector<std::int64_t>(kBuckets);
};

}  // namespace layerprobe::compare
