// Every test asks how much of the difference is left once its explanation is taken out: a kind is named when less than
// a tenth of the difference's square is.
#include "compare/diagnose.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <vector>

#include "base/text.h"

namespace layerprobe::compare {
namespace {

constexpr double kLeftOver = 0.1;
constexpr double kLargestF16 = 65504;

std::string digits(double value, const char* format = "%.4g") {
  std::array<char, 32> out{};
  std::snprintf(out.data(), out.size(), format, value);
  return out.data();
}

double square(double x) { return x * x; }

/// The sample with what is NaN or infinite on a side zeroed on both.
Sample finite(Sample sample) {
  for (std::size_t i = 0; i < sample.reference.size(); ++i) {
    if (!std::isfinite(sample.reference[i]) || !std::isfinite(sample.candidate[i])) {
      sample.reference[i] = sample.candidate[i] = 0;
    }
  }
  return sample;
}

/// One sample's sums, which all tests share.
class Tests {
 public:
  explicit Tests(const Sample& sample) : s_(sample), width_(static_cast<std::size_t>(sample.width)) {
    row_squares_.resize(static_cast<std::size_t>(s_.num_rows()));
    reference_row_squares_.resize(row_squares_.size());
    channel_squares_.resize(width_);
    for (std::size_t i = 0; i < s_.reference.size(); ++i) {
      const double d = square(s_.candidate[i] - s_.reference[i]);
      row_squares_[i / width_] += d;
      reference_row_squares_[i / width_] += square(s_.reference[i]);
      channel_squares_[i % width_] += d;
      all_ += d;
    }
  }

  double all() const { return all_; }

  std::optional<Diagnosis> scale() const {
    double products = 0, squares = 0;
    for (std::size_t i = 0; i < s_.reference.size(); ++i) {
      products += s_.reference[i] * s_.candidate[i];
      squares += square(s_.reference[i]);
    }
    if (!(squares > 0)) return std::nullopt;
    const double factor = products / squares;
    double left = 0;
    for (std::size_t i = 0; i < s_.reference.size(); ++i) left += square(s_.candidate[i] - factor * s_.reference[i]);
    if (left > kLeftOver * all_) return std::nullopt;
    if (std::fabs(factor) < 1e-6) return Diagnosis{Kind::scale, "it is zero"};
    return Diagnosis{Kind::scale, text("it is ", digits(factor), " times the reference")};
  }

  std::optional<Diagnosis> token_shift() const {
    for (const int shift : {-1, 1}) {
      double own = 0, other = 0;
      for (std::size_t piece = 0; piece + 1 < s_.piece_begin.size(); ++piece) {
        for (std::int64_t row = s_.piece_begin[piece]; row < s_.piece_begin[piece + 1]; ++row) {
          const std::int64_t from = row + shift;
          if (from < s_.piece_begin[piece] || from >= s_.piece_begin[piece + 1]) continue;
          own += row_squares_[static_cast<std::size_t>(row)];
          for (std::int64_t i = 0; i < s_.width; ++i) other += square(s_.c(row)[i] - s_.r(from)[i]);
        }
      }
      if (own > 0 && other < kLeftOver * own) {
        return Diagnosis{Kind::token_shift, shift < 0
                                                ? "each token holds the values of the token before it: shifted by one"
                                                : "each token holds the values of the token behind it: shifted by one"};
      }
    }
    return std::nullopt;
  }

  /// Looks for each of the worst channels among all of the reference's.
  std::optional<Diagnosis> channel_order() const {
    constexpr std::size_t kChannels = 48;
    constexpr std::int64_t kRows = 64;
    const std::int64_t rows = std::min(kRows, s_.num_rows());
    if (rows < 4 || width_ < 4) return std::nullopt;
    const std::vector<std::size_t> worst = worst_channels(kChannels);
    std::size_t moved = 0;
    std::optional<std::pair<std::size_t, std::size_t>> first;
    std::vector<double> apart(width_);
    for (const std::size_t channel : worst) {
      std::ranges::fill(apart, 0.0);
      for (std::int64_t row = 0; row < rows; ++row) {
        const double c = s_.c(row)[channel];
        const double* r = s_.r(row);
        for (std::size_t i = 0; i < width_; ++i) apart[i] += square(c - r[i]);
      }
      const auto nearest = static_cast<std::size_t>(std::ranges::min_element(apart) - apart.begin());
      if (nearest == channel || apart[nearest] > kLeftOver * apart[channel]) continue;
      ++moved;
      if (!first || channel < first->first) first = {channel, nearest};
    }
    if (!first || moved * 10 < worst.size() * 8) return std::nullopt;
    return Diagnosis{Kind::channel_order, text("channels have changed places (heads or halves swapped): channel ",
                                               first->first, " holds the reference's channel ", first->second)};
  }

  std::optional<Diagnosis> few_channels() const {
    const std::size_t few = std::max<std::size_t>(1, width_ / 64);
    if (few * 8 > width_) return std::nullopt;
    const std::vector<std::size_t> worst = worst_channels(few);
    double in_them = 0;
    for (const std::size_t channel : worst) in_them += channel_squares_[channel];
    if (in_them < (1 - kLeftOver) * all_) return std::nullopt;
    std::vector<std::string> names;
    double sum = 0;
    for (const std::size_t channel : worst) {
      if (sum >= (1 - kLeftOver) * all_ || names.size() == 8) break;
      sum += channel_squares_[channel];
      names.push_back(std::to_string(channel));
    }
    return Diagnosis{Kind::few_channels,
                     text("nearly all of it lies in channel", names.size() == 1 ? " " : "s ", join(names, ", "))};
  }

  std::optional<Diagnosis> channel_scale() const {
    if (s_.num_rows() < 8) return std::nullopt;
    std::vector<double> products(width_), squares(width_);
    for (std::size_t i = 0; i < s_.reference.size(); ++i) {
      products[i % width_] += s_.reference[i] * s_.candidate[i];
      squares[i % width_] += square(s_.reference[i]);
    }
    double left = 0;
    for (std::size_t i = 0; i < s_.reference.size(); ++i) {
      const std::size_t channel = i % width_;
      const double factor = squares[channel] > 0 ? products[channel] / squares[channel] : 0;
      left += square(s_.candidate[i] - factor * s_.reference[i]);
    }
    if (left > kLeftOver * all_) return std::nullopt;
    return Diagnosis{Kind::channel_scale, "each channel is off by a factor of its own: a norm's weight"};
  }

  std::optional<Diagnosis> token_scale(std::size_t min_width = 8) const {
    if (width_ < min_width) return std::nullopt;
    double left = 0;
    for (std::int64_t row = 0; row < s_.num_rows(); ++row) {
      double products = 0, squares = 0, own = 0;
      for (std::int64_t i = 0; i < s_.width; ++i) {
        products += s_.r(row)[i] * s_.c(row)[i];
        squares += square(s_.r(row)[i]);
        own += square(s_.c(row)[i]);
      }
      left += squares > 0 ? std::max(0.0, own - products * products / squares) : own;
    }
    if (left > kLeftOver * all_) return std::nullopt;
    return Diagnosis{Kind::token_scale, "each token is off by a factor of its own: a norm's epsilon, or its sum"};
  }

  std::optional<Diagnosis> channel_offset() const {
    if (s_.num_rows() < 8) return std::nullopt;
    std::vector<double> mean(width_);
    for (std::size_t i = 0; i < s_.reference.size(); ++i) mean[i % width_] += s_.candidate[i] - s_.reference[i];
    for (double& each : mean) each /= static_cast<double>(s_.num_rows());
    double left = 0;
    for (std::size_t i = 0; i < s_.reference.size(); ++i) {
      left += square(s_.candidate[i] - s_.reference[i] - mean[i % width_]);
    }
    if (left > kLeftOver * all_) return std::nullopt;
    return Diagnosis{Kind::channel_offset, "every token is off by the same vector: a bias"};
  }

  std::optional<Diagnosis> attention() const {
    // Token 0 is often a sink, of which nothing can be said: a block adds next to nothing to it.
    std::vector<double> sorted = reference_row_squares_;
    std::ranges::sort(sorted);
    const double sink_squares = 64 * sorted[sorted.size() / 2];
    std::vector<double> first, later;
    for (std::size_t row = 0; row < row_squares_.size(); ++row) {
      if (!(reference_row_squares_[row] > 0) || reference_row_squares_[row] > sink_squares) continue;
      (s_.position[row] == 0 ? first : later).push_back(row_squares_[row] / reference_row_squares_[row]);
    }
    if (first.empty() || later.size() < 2) return std::nullopt;
    std::ranges::sort(later);
    if (!(*std::ranges::max_element(first) < kLeftOver * later[later.size() / 2])) return std::nullopt;
    return Diagnosis{Kind::attention,
                     "token 0 of each prompt is right and later ones are not: what tokens attend to (rotary embedding, "
                     "mask, scale, cache)"};
  }

  std::optional<Diagnosis> few_tokens() const {
    std::vector<double> errors;
    std::size_t worst = 0;
    for (std::size_t row = 0; row < row_squares_.size(); ++row) {
      errors.push_back(reference_row_squares_[row] > 0 ? row_squares_[row] / reference_row_squares_[row] : 0);
      if (errors[row] > errors[worst]) worst = row;
    }
    const double sum = std::accumulate(errors.begin(), errors.end(), 0.0);
    std::vector<double> sorted = errors;
    std::ranges::sort(sorted, std::greater<>());
    const std::size_t few = std::max<std::size_t>(1, sorted.size() / 10);
    if (sorted.size() < 10 || std::accumulate(sorted.begin(), sorted.begin() + static_cast<std::ptrdiff_t>(few), 0.0) <
                                  (1 - kLeftOver) * sum) {
      return std::nullopt;
    }
    return Diagnosis{Kind::few_tokens, "nearly all of it lies in a few tokens"};
  }

  std::optional<Diagnosis> precision(Dtype stored) const {
    if (stored != Dtype::f32 && stored != Dtype::f64) return std::nullopt;
    for (const Dtype narrow : {Dtype::bf16, Dtype::f16, Dtype::f32}) {
      if (narrow == stored) continue;
      if (share_of(s_.candidate, narrow) == 1 && share_of(s_.reference, narrow) < 0.5) {
        return Diagnosis{Kind::precision, text("the candidate's values are all numbers of ", name_of(narrow),
                                               ": it computed or stored them so")};
      }
    }
    return std::nullopt;
  }

 private:
  std::vector<std::size_t> worst_channels(std::size_t count) const {
    std::vector<std::size_t> order(width_);
    std::iota(order.begin(), order.end(), std::size_t{0});
    count = std::min(count, width_);
    std::ranges::partial_sort(
        order, order.begin() + static_cast<std::ptrdiff_t>(count), [&](std::size_t a, std::size_t b) {
          return channel_squares_[a] > channel_squares_[b] || (channel_squares_[a] == channel_squares_[b] && a < b);
        });
    order.resize(count);
    // Rounding is in every channel; what is looked for is not.
    while (!order.empty() && channel_squares_[order.back()] <= 0.01 * channel_squares_[order.front()]) order.pop_back();
    return order;
  }

  /// How many of the values are numbers of that dtype.
  static double share_of(const std::vector<double>& values, Dtype dtype) {
    const auto count = static_cast<std::int64_t>(values.size());
    std::vector<std::byte> narrow(values.size() * size_of(dtype));
    std::vector<double> again(values.size());
    const RowKernels& kernels = row_kernels().back();
    kernels.narrow(dtype, values.data(), count, narrow.data());
    kernels.widen(dtype, narrow.data(), count, again.data());
    std::size_t same = 0;
    for (std::size_t i = 0; i < values.size(); ++i) same += again[i] == values[i];
    return values.empty() ? 0 : static_cast<double>(same) / static_cast<double>(values.size());
  }

  const Sample& s_;
  std::size_t width_;
  std::vector<double> row_squares_, reference_row_squares_, channel_squares_;
  double all_ = 0;
};

std::optional<Diagnosis> non_finite(const Difference& difference, Dtype computed) {
  if (difference.unmatched_non_finite == 0 || !difference.first_unmatched) return std::nullopt;
  const Element& at = *difference.first_unmatched;
  const bool is_over = std::isinf(at.candidate) && std::fabs(at.reference) >= kLargestF16;
  if (is_over || (computed == Dtype::f16 && difference.candidate_non_finite.inf > 0)) {
    return Diagnosis{Kind::overflow,
                     text("it is infinite where the reference has ", digits(at.reference), "; float16 ends at 65504")};
  }
  return Diagnosis{Kind::non_finite, ""};
}

/// Of the point's values, or of what the block added to them. Nothing where no test explains them.
std::optional<Diagnosis> explained(const Tests& tests) {
  if (const auto found = tests.scale()) return found;
  if (const auto found = tests.token_shift()) return found;
  if (const auto found = tests.few_tokens()) return found;
  if (const auto found = tests.few_channels()) return found;
  if (const auto found = tests.channel_order()) return found;
  if (const auto found = tests.channel_scale()) return found;
  if (const auto found = tests.token_scale()) return found;
  if (const auto found = tests.channel_offset()) return found;
  return tests.attention();
}

}  // namespace

std::string_view name_of(Kind kind) {
  switch (kind) {
    case Kind::layer_offset:
      return "layer-offset";
    case Kind::post_norm:
      return "post-norm";
    case Kind::non_finite:
      return "non-finite";
    case Kind::overflow:
      return "overflow";
    case Kind::token_shift:
      return "token-shift";
    case Kind::scale:
      return "scale";
    case Kind::channel_order:
      return "channel-order";
    case Kind::few_channels:
      return "few-channels";
    case Kind::channel_scale:
      return "channel-scale";
    case Kind::token_scale:
      return "token-scale";
    case Kind::channel_offset:
      return "channel-offset";
    case Kind::attention:
      return "attention";
    case Kind::few_tokens:
      return "few-tokens";
    case Kind::expert:
      return "expert";
    case Kind::routing:
      return "routing";
    case Kind::precision:
      return "precision";
    case Kind::kind_of_value:
      return "kind-of-value";
    case Kind::gradual:
      return "gradual";
    case Kind::values:
      return "values";
  }
  return "?";
}

Diagnosis diagnose(const Sample& sample, const Difference& difference, Dtype computed) {
  if (const auto found = non_finite(difference, computed)) return *found;
  const Sample values = finite(sample);
  const Tests tests(values);
  if (!(tests.all() > 0)) return {Kind::few_tokens, "none of the rows that were looked at differs"};
  if (const auto found = tests.precision(difference.candidate_dtype)) return *found;
  return explained(tests).value_or(Diagnosis{});
}

Diagnosis diagnose_weights(const Sample& sample, const Difference& difference, Dtype computed) {
  if (const auto found = non_finite(difference, computed)) return *found;
  const Sample values = finite(sample);
  const Tests tests(values);
  if (!(tests.all() > 0)) return {Kind::routing, "other experts were chosen"};
  if (const auto found = tests.scale()) return *found;
  if (tests.token_scale(/*min_width=*/2)) {
    return {Kind::token_scale,
            "each token's weights are off by a factor of its own: one side normalises them and the other does not"};
  }
  return {Kind::routing, "the same experts have other weights"};
}

std::optional<Diagnosis> diagnose_experts(const Sample& sample, const std::vector<std::int32_t>& experts) {
  constexpr std::size_t kMinTokens = 3;
  constexpr double kTimes = 10;  // the others' tokens are this many times less off
  const auto num_rows = static_cast<std::size_t>(sample.num_rows());
  if (num_rows == 0 || experts.size() % num_rows != 0) return std::nullopt;
  const std::size_t k = experts.size() / num_rows;
  std::vector<double> errors(num_rows);
  std::map<std::int32_t, std::vector<double>> errors_of;
  for (std::size_t row = 0; row < num_rows; ++row) {
    double difference = 0, reference = 0;
    for (std::int64_t i = 0; i < sample.width; ++i) {
      const double r = sample.r(static_cast<std::int64_t>(row))[i], c = sample.c(static_cast<std::int64_t>(row))[i];
      if (!std::isfinite(r) || !std::isfinite(c)) continue;
      difference += square(c - r);
      reference += square(r);
    }
    errors[row] = reference > 0 ? std::sqrt(difference / reference) : 0;
    for (std::size_t i = 0; i < k; ++i) errors_of[experts[row * k + i]].push_back(errors[row]);
  }
  const auto quantile = [](std::vector<double> values, double share) {
    std::ranges::sort(values);
    return values[static_cast<std::size_t>(share * static_cast<double>(values.size() - 1))];
  };
  // The worst first: nearly every token of a guilty one is off, whatever else it went to.
  std::vector<std::pair<double, std::int32_t>> order;
  for (const auto& [expert, own] : errors_of) order.push_back({-quantile(own, 0.1), expert});
  std::ranges::sort(order);
  const auto explains = [&](const std::set<std::int32_t>& guilty) {
    std::vector<double> with, without;
    for (std::size_t row = 0; row < num_rows; ++row) {
      const bool went = std::any_of(experts.begin() + static_cast<std::ptrdiff_t>(row * k),
                                    experts.begin() + static_cast<std::ptrdiff_t>((row + 1) * k),
                                    [&](std::int32_t each) { return guilty.contains(each); });
      (went ? with : without).push_back(errors[row]);
    }
    if (with.size() < kMinTokens || without.size() < kMinTokens) return false;
    return quantile(with, 0.5) > 0 && quantile(with, 0.5) >= kTimes * quantile(without, 0.9);
  };
  std::set<std::int32_t> guilty;
  for (std::size_t i = 0; i < order.size() && i < std::max<std::size_t>(2, order.size() / 2); ++i) {
    guilty.insert(order[i].second);
    if (!explains(guilty)) continue;
    for (std::size_t other = 0; other <= i; ++other) {  // one that is only ever chosen beside a guilty one
      std::set<std::int32_t> fewer = guilty;
      fewer.erase(order[other].second);
      if (explains(fewer)) guilty = fewer;
    }
    if (guilty.size() > std::max<std::size_t>(2, order.size() / 4)) return std::nullopt;
    std::vector<std::string> names;
    for (const std::int32_t each : guilty) names.push_back(std::to_string(each));
    return Diagnosis{Kind::expert, text("only tokens that went to expert", names.size() == 1 ? " " : "s ",
                                        join(names, " and "), names.size() == 1 ? " are off" : " are off: exchanged?")};
  }
  return std::nullopt;
}

Diagnosis diagnose_added(const Sample& sample, const Sample& before, const Difference& difference, Dtype computed) {
  if (const auto found = non_finite(difference, computed)) return *found;
  Sample added = finite(sample);
  const Sample entered = finite(before);
  double largest = 0;
  std::vector<double> squares(static_cast<std::size_t>(added.num_rows()));
  for (std::size_t i = 0; i < added.reference.size(); ++i) {
    squares[i / static_cast<std::size_t>(added.width)] += square(added.reference[i]);
  }
  std::vector<double> sorted = squares;
  std::ranges::sort(sorted);
  if (!sorted.empty()) largest = 64 * sorted[sorted.size() / 2];  // a sink's, or left out before
  for (std::size_t i = 0; i < added.reference.size(); ++i) {
    const double of_row = squares[i / static_cast<std::size_t>(added.width)];
    const bool is_out = of_row > largest || (added.reference[i] == 0 && added.candidate[i] == 0);
    added.reference[i] = is_out ? 0 : added.reference[i] - entered.reference[i];
    added.candidate[i] = is_out ? 0 : added.candidate[i] - entered.candidate[i];
  }
  const Tests tests(added);
  Diagnosis diagnosis = tests.all() > 0 ? explained(tests).value_or(Diagnosis{}) : Diagnosis{};
  if (diagnosis.kind == Kind::scale) {
    constexpr std::string_view kIt = "it is ";
    diagnosis.words = "what the block adds is " + diagnosis.words.substr(kIt.size());
  }
  return diagnosis;
}

}  // namespace layerprobe::compare
