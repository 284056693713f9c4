#include "tests/support/formulas.h"

#include <algorithm>
#include <cmath>
#include <numeric>

namespace layerprobe::test {

Values matmul_in_f64(const Values& x, const Values& weight, const Values& bias) {
  Values out = filled(x.rows, weight.rows, x.dtype, 0);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t j = 0; j < weight.rows; ++j) {
      double sum = 0;
      for (std::int64_t k = 0; k < x.columns; ++k) sum += x.at(t, k) * weight.at(j, k);
      if (bias.rows > 0) sum += bias.at(0, j);
      out.at(t, j) = rounded(sum, x.dtype);
    }
  }
  return out;
}

Values rms_norm_in_f64(const Values& x, const Values& weight, double rms_norm_eps) {
  Values out = filled(x.rows, x.columns, x.dtype, 0);
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t group = 0; group < x.columns; group += weight.columns) {
      double square_sum = 0;
      for (std::int64_t h = 0; h < weight.columns; ++h) square_sum += x.at(t, group + h) * x.at(t, group + h);
      const double rms = std::sqrt(square_sum / static_cast<double>(weight.columns) + rms_norm_eps);
      for (std::int64_t h = 0; h < weight.columns; ++h) {
        out.at(t, group + h) = rounded(weight.at(0, h) * x.at(t, group + h) / rms, x.dtype);
      }
    }
  }
  return out;
}

Values rope_in_f64(const Values& x, const Values& cos, const Values& sin, std::int64_t head_dim, std::int64_t first,
                   bool interleaved) {
  Values out = x;
  const std::int64_t half = cos.columns;
  const auto r = [&](double value) { return rounded(value, x.dtype); };
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t head = 0; head < x.columns; head += head_dim) {
      for (std::int64_t j = 0; j < half; ++j) {
        const std::int64_t low = head + first + (interleaved ? 2 * j : j), high = low + (interleaved ? 1 : half);
        const double lo = x.at(t, low), hi = x.at(t, high), c = cos.at(t, j), s = sin.at(t, j);
        out.at(t, low) = r(r(lo * c) - r(hi * s));
        out.at(t, high) = r(r(hi * c) + r(lo * s));
      }
    }
  }
  return out;
}

Values silu_mul_in_f64(const Values& gate, const Values& up) {
  Values out = gate;
  for (std::size_t i = 0; i < gate.data.size(); ++i) {
    const double silu = gate.data[i] / (1 + std::exp(-gate.data[i]));
    out.data[i] = rounded(up.rows > 0 ? silu * up.data[i] : silu, gate.dtype);
  }
  return out;
}

Values add_in_f64(const Values& a, const Values& b) {
  Values out = a;
  for (std::size_t i = 0; i < a.data.size(); ++i) out.data[i] = rounded(a.data[i] + b.data[i], a.dtype);
  return out;
}

Values attention_in_f64(const AttentionInputs& in) {
  const std::int64_t num_heads = in.query_states.columns / in.head_dim;
  const std::int64_t value_head_dim = in.value_states.columns / (in.key_states.columns / in.head_dim);
  Values out = filled(in.query_states.rows, num_heads * value_head_dim, in.query_states.dtype, 0);
  const std::int64_t group = in.query_states.columns / in.key_states.columns;
  for (std::size_t prompt = 0; prompt + 1 < in.cu_seqlens.size(); ++prompt) {
    const std::int64_t begin = in.cu_seqlens[prompt], end = in.cu_seqlens[prompt + 1];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = in.sliding_window > 0 ? std::max(begin, t - in.sliding_window + 1) : begin;
      for (std::int64_t head = 0; head < num_heads; ++head) {
        const std::int64_t q = head * in.head_dim, k = head / group * in.head_dim;
        const std::int64_t v = head / group * value_head_dim;
        std::vector<double> weights;
        for (std::int64_t s = first; s <= t; ++s) {
          double score = 0;
          for (std::int64_t d = 0; d < in.head_dim; ++d)
            score += in.query_states.at(t, q + d) * in.key_states.at(s, k + d);
          weights.push_back(score * in.scaling);
        }
        const double max = *std::max_element(weights.begin(), weights.end());
        double sum = 0;
        for (double& weight : weights) sum += weight = std::exp(weight - max);
        for (std::int64_t d = 0; d < value_head_dim; ++d) {
          double value = 0;
          for (std::int64_t s = first; s <= t; ++s) {
            value += weights[static_cast<std::size_t>(s - first)] * in.value_states.at(s, v + d);
          }
          out.at(t, head * value_head_dim + d) = rounded(value / sum, out.dtype);
        }
      }
    }
  }
  return out;
}

Routed route_tokens_in_f64(const RouteInputs& in) {
  const Dtype weights = in.router_logits.dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  Routed out{.indices = filled(in.router_logits.rows, in.num_choices, Dtype::i32, 0),
             .weights = filled(in.router_logits.rows, in.num_choices, weights, 0)};
  const std::int64_t num_experts = in.router_logits.columns;
  for (std::int64_t t = 0; t < in.router_logits.rows; ++t) {
    std::vector<double> scores;
    long double exponentials = 0;
    for (std::int64_t e = 0; e < num_experts; ++e) exponentials += std::exp(in.router_logits.at(t, e));
    for (std::int64_t e = 0; e < num_experts; ++e) {
      const double z = in.router_logits.at(t, e);
      scores.push_back(in.is_sigmoid ? 1 / (1 + std::exp(-z)) : static_cast<double>(std::exp(z) / exponentials));
    }
    const auto selection = [&](std::int64_t e) {
      return scores[static_cast<std::size_t>(e)] + (in.selection_bias.rows > 0 ? in.selection_bias.at(0, e) : 0.0);
    };
    // Groups by the sum of their two best, then the experts of the best groups by their own.
    const std::int64_t group_size = num_experts / in.num_groups;
    const auto group_score = [&](std::int64_t group) {
      std::vector<double> of_group;
      for (std::int64_t e = 0; e < group_size; ++e) of_group.push_back(selection(group * group_size + e));
      std::sort(of_group.rbegin(), of_group.rend());
      return of_group.size() > 1 ? of_group[0] + of_group[1] : 0.0;
    };
    std::vector<std::int64_t> groups(static_cast<std::size_t>(in.num_groups)), order;
    std::iota(groups.begin(), groups.end(), 0);
    std::stable_sort(groups.begin(), groups.end(),
                     [&](std::int64_t a, std::int64_t b) { return group_score(a) > group_score(b); });
    groups.resize(static_cast<std::size_t>(in.topk_groups));
    std::sort(groups.begin(), groups.end());
    for (const std::int64_t group : groups) {
      for (std::int64_t e = 0; e < group_size; ++e) order.push_back(group * group_size + e);
    }
    std::stable_sort(order.begin(), order.end(),
                     [&](std::int64_t a, std::int64_t b) { return selection(a) > selection(b); });
    double sum = 0;
    for (std::int64_t j = 0; j < in.num_choices; ++j) {
      const std::int64_t expert = order[static_cast<std::size_t>(j)];
      out.indices.at(t, j) = static_cast<double>(expert);
      sum += out.weights.at(t, j) = scores[static_cast<std::size_t>(expert)];
    }
    for (std::int64_t j = 0; j < in.num_choices; ++j) {
      double& weight = out.weights.at(t, j);
      if (in.normalizes) weight /= sum + in.divisor_epsilon;
      weight *= in.scaling_factor;
      weight = rounded(weight, in.rounds_weights ? in.router_logits.dtype : weights);
    }
  }
  return out;
}

Grouped group_by_expert_plainly(const Values& topk_indices, std::int64_t num_experts) {
  Grouped out{.row_of_choice = topk_indices,
              .token_of_row = filled(topk_indices.rows * topk_indices.columns, 1, Dtype::i32, 0),
              .first_rows = {0}};
  std::int64_t row = 0;
  for (std::int64_t expert = 0; expert < num_experts; ++expert) {
    for (std::int64_t t = 0; t < topk_indices.rows; ++t) {
      for (std::int64_t j = 0; j < topk_indices.columns; ++j) {
        if (topk_indices.at(t, j) != static_cast<double>(expert)) continue;
        out.row_of_choice.at(t, j) = static_cast<double>(row);
        out.token_of_row.at(row++, 0) = static_cast<double>(t);
      }
    }
    out.first_rows.push_back(row);
  }
  return out;
}

Values combine_experts_in_f64(const Values& expert_outputs, const Values& row_of_choice, const Values& topk_weights,
                              bool rounds_products) {
  Values out = filled(row_of_choice.rows, expert_outputs.columns, expert_outputs.dtype, 0);
  for (std::int64_t t = 0; t < out.rows; ++t) {
    for (std::int64_t h = 0; h < out.columns; ++h) {
      double sum = 0;
      for (std::int64_t j = 0; j < row_of_choice.columns; ++j) {
        const double product =
            expert_outputs.at(static_cast<std::int64_t>(row_of_choice.at(t, j)), h) * topk_weights.at(t, j);
        sum += rounds_products ? rounded(product, out.dtype) : product;
      }
      out.at(t, h) = rounded(sum, out.dtype);
    }
  }
  return out;
}

Statistics row_statistics_in_f64(const Values& x, std::int64_t row) {
  double sums[32] = {}, squares[32] = {};
  Statistics statistics;
  statistics.count = x.columns;
  for (std::int64_t column = 0; column < x.columns; ++column) {
    const double value = x.at(row, column);
    if (!std::isfinite(value)) {
      ++(std::isnan(value) ? statistics.nan_count : statistics.inf_count);
      statistics.first_non_finite_row = 0;
      continue;
    }
    volatile const double square = value * value;  // volatile: rounded before it is added
    sums[column % 32] += value;
    squares[column % 32] += square;
    statistics.min = std::min(statistics.min, value);
    statistics.max = std::max(statistics.max, value);
    if (std::abs(value) > statistics.abs_max) {
      statistics.abs_max = std::abs(value);
      statistics.abs_max_row = 0;
      statistics.abs_max_column = column;
    }
  }
  for (int half = 16; half > 0; half /= 2) {
    for (int lane = 0; lane < half; ++lane) {
      sums[lane] += sums[lane + half];
      squares[lane] += squares[lane + half];
    }
  }
  statistics.sum = sums[0];
  statistics.sum_of_squares = squares[0];
  return statistics;
}

Values mean_rows_in_f64(const Values& x, std::span<const std::int64_t> cu_seqlens) {
  Values out = filled(static_cast<std::int64_t>(cu_seqlens.size()) - 1, x.columns, Dtype::f32, 0);
  for (std::int64_t prompt = 0; prompt < out.rows; ++prompt) {
    const std::int64_t begin = cu_seqlens[static_cast<std::size_t>(prompt)];
    const std::int64_t end = cu_seqlens[static_cast<std::size_t>(prompt) + 1];
    for (std::int64_t column = 0; column < x.columns; ++column) {
      double sum = 0;
      for (std::int64_t row = begin; row < end; ++row) sum += x.at(row, column);
      out.at(prompt, column) = static_cast<float>(sum / static_cast<double>(end - begin));
    }
  }
  return out;
}

}  // namespace layerprobe::test
