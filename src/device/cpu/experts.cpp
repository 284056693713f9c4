#include "device/cpu/experts.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <span>
#include <vector>

#include "base/float16.h"

namespace layerprobe::device::cpu {
namespace {

template <typename T>
T* row_of(const Tensor& tensor, std::int64_t row) {
  return static_cast<T*>(tensor.data) + row * tensor.row_stride;
}

/// How each dtype is read and rounded, and the type of its arithmetic.
struct F64 {
  using Stored = double;
  using A = double;
  static A read(Stored value) { return value; }
  static Stored round(A value) { return value; }
};
struct F32 {
  using Stored = float;
  using A = float;
  static A read(Stored value) { return value; }
  static Stored round(A value) { return value; }
};
struct F16 {
  using Stored = std::uint16_t;
  using A = float;
  static A read(Stored bits) { return f32_of_f16(bits); }
  static Stored round(A value) { return f16_of_f32(value); }
};
struct Bf16 {
  using Stored = std::uint16_t;
  using A = float;
  static A read(Stored bits) { return f32_of_bf16(bits); }
  static Stored round(A value) { return bf16_of_f32(value); }
};

template <typename Work>
void dispatch(Dtype dtype, Work&& work) {
  switch (dtype) {
    case Dtype::f64:
      return work.template operator()<F64>();
    case Dtype::f32:
      return work.template operator()<F32>();
    case Dtype::f16:
      return work.template operator()<F16>();
    case Dtype::bf16:
      return work.template operator()<Bf16>();
    case Dtype::i32:
      break;  // checked
  }
}

template <typename A>
void take_scores(Ops::Scores kind, std::span<A> logits) {
  if (kind == Ops::Scores::sigmoid) {
    for (A& value : logits) value = 1 / (1 + std::exp(-value));
    return;
  }
  constexpr std::size_t kLanes = 32;  // of sums, for accuracy
  A max = -std::numeric_limits<A>::infinity(), sums[kLanes] = {};
  for (const A value : logits) max = value > max ? value : max;
  for (std::size_t i = 0; i < logits.size(); ++i) sums[i % kLanes] += logits[i] = std::exp(logits[i] - max);
  for (std::size_t half = kLanes / 2; half > 0; half /= 2) {
    for (std::size_t lane = 0; lane < half; ++lane) sums[lane] += sums[lane + half];
  }
  for (A& value : logits) value /= sums[0];
}

/// Of two that may be chosen, whether `a` goes before `b` whose index is lower.
template <typename A>
bool goes_before(A a, A b) {
  return a > b || (a != a && b == b);
}

/// The best of `scores` that is not taken yet: its index.
template <typename A>
std::size_t best_of(std::span<const A> scores, const std::vector<bool>& is_taken) {
  std::size_t best = scores.size();
  for (std::size_t i = 0; i < scores.size(); ++i) {
    if (is_taken[i]) continue;
    if (best == scores.size() || goes_before(scores[i], scores[best])) best = i;
  }
  return best;
}

/// Takes the experts of all groups but the best.
template <typename A>
void take_other_groups(const Ops::RouteTokens& args, std::span<const A> scores, std::vector<bool>& is_taken) {
  const auto num_groups = static_cast<std::size_t>(args.num_groups);
  const std::size_t size = scores.size() / num_groups;
  std::vector<A> sums;
  for (std::size_t group = 0; group < num_groups; ++group) {
    const std::span<const A> of_group = scores.subspan(group * size, size);
    std::vector<bool> is_summed(size, false);
    const std::size_t first = best_of(of_group, is_summed);
    is_summed[first] = true;
    sums.push_back(of_group[first] + of_group[best_of(of_group, is_summed)]);
  }
  std::vector<bool> is_chosen(num_groups, false);
  for (std::int64_t i = 0; i < args.topk_groups; ++i) is_chosen[best_of(std::span<const A>(sums), is_chosen)] = true;
  for (std::size_t expert = 0; expert < scores.size(); ++expert) is_taken[expert] = !is_chosen[expert / size];
}

/// One token's choice, out of its scores. `selection` and `is_taken`: room to work in.
template <typename D>
void choose(const Ops::RouteTokens& args, std::int64_t token, std::span<const typename D::A> scores,
            std::vector<typename D::A>& selection, std::vector<bool>& is_taken) {
  using A = typename D::A;
  const auto* bias = static_cast<const A*>(args.selection_bias.data);
  selection.assign(scores.begin(), scores.end());
  for (std::size_t expert = 0; bias && expert < scores.size(); ++expert) selection[expert] += bias[expert];
  auto* indices = row_of<std::int32_t>(args.topk_indices, token);
  auto* weights = row_of<A>(args.topk_weights, token);
  is_taken.assign(scores.size(), false);
  if (args.num_groups > 1) take_other_groups(args, std::span<const A>(selection), is_taken);
  A sum = 0;
  for (std::int64_t j = 0; j < args.topk_indices.columns; ++j) {
    const std::size_t best = best_of(std::span<const A>(selection), is_taken);
    is_taken[best] = true;
    indices[j] = static_cast<std::int32_t>(best);
    weights[j] = scores[best];
    sum += weights[j];
  }
  for (std::int64_t j = 0; j < args.topk_indices.columns; ++j) {
    if (args.normalizes) weights[j] /= sum + static_cast<A>(args.divisor_epsilon);
    weights[j] *= static_cast<A>(args.scaling_factor);
    if (args.rounds_weights) weights[j] = D::read(D::round(weights[j]));
  }
}

}  // namespace

void route_tokens(const Ops::RouteTokens& args, Rows tokens) {
  dispatch(args.router_logits.dtype, [&]<typename D>() {
    std::vector<typename D::A> scores(static_cast<std::size_t>(args.router_logits.columns));
    std::vector<typename D::A> selection;
    std::vector<bool> is_taken;
    for (std::int64_t token = tokens.first; token < tokens.last; ++token) {
      const auto* logits = row_of<const typename D::Stored>(args.router_logits, token);
      for (std::size_t expert = 0; expert < scores.size(); ++expert) scores[expert] = D::read(logits[expert]);
      take_scores(args.scores, std::span(scores));
      choose<D>(args, token, scores, selection, is_taken);
    }
  });
}

void group_by_expert(const Ops::GroupByExpert& args) {
  const std::int64_t choices = args.topk_indices.columns;
  const auto for_each_choice = [&](auto&& work) {
    for (std::int64_t token = 0; token < args.topk_indices.rows; ++token) {
      const auto* experts = row_of<const std::int32_t>(args.topk_indices, token);
      for (std::int64_t j = 0; j < choices; ++j) work(token, j, static_cast<std::size_t>(experts[j]));
    }
  };
  std::ranges::fill(args.first_rows, 0);
  for_each_choice([&](std::int64_t, std::int64_t, std::size_t expert) { ++args.first_rows[expert + 1]; });
  for (std::size_t i = 1; i < args.first_rows.size(); ++i) args.first_rows[i] += args.first_rows[i - 1];
  std::vector<std::int64_t> next(args.first_rows.begin(), args.first_rows.end());
  for_each_choice([&](std::int64_t token, std::int64_t j, std::size_t expert) {
    const std::int64_t row = next[expert]++;
    row_of<std::int32_t>(args.row_of_choice, token)[j] = static_cast<std::int32_t>(row);
    *row_of<std::int32_t>(args.token_of_row, row) = static_cast<std::int32_t>(token);
  });
}

void combine_experts(const Ops::CombineExperts& args, Rows tokens) {
  dispatch(args.out.dtype, [&]<typename D>() {
    using A = typename D::A;
    std::vector<A> sums(static_cast<std::size_t>(args.out.columns));
    for (std::int64_t token = tokens.first; token < tokens.last; ++token) {
      const auto* rows = row_of<const std::int32_t>(args.row_of_choice, token);
      const auto* weights = row_of<const A>(args.topk_weights, token);
      sums.assign(sums.size(), 0);
      for (std::int64_t j = 0; j < args.row_of_choice.columns; ++j) {
        const auto* output = row_of<const typename D::Stored>(args.expert_outputs, rows[j]);
        for (std::size_t h = 0; h < sums.size(); ++h) {
          const A product = D::read(output[h]) * weights[j];
          sums[h] += args.rounds_products ? D::read(D::round(product)) : product;
        }
      }
      auto* out = row_of<typename D::Stored>(args.out, token);
      for (std::size_t h = 0; h < sums.size(); ++h) out[h] = D::round(sums[h]);
    }
  });
}

}  // namespace layerprobe::device::cpu
