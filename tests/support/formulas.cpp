#include "tests/support/formulas.h"

#include <algorithm>
#include <cmath>

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

Values rope_in_f64(const Values& x, const Values& cos, const Values& sin, std::int64_t head_dim) {
  Values out = x;
  const std::int64_t half = cos.columns;
  const auto r = [&](double value) { return rounded(value, x.dtype); };
  for (std::int64_t t = 0; t < x.rows; ++t) {
    for (std::int64_t head = 0; head < x.columns; head += head_dim) {
      for (std::int64_t j = 0; j < half; ++j) {
        const double lo = x.at(t, head + j), hi = x.at(t, head + j + half);
        const double c = cos.at(t, j), s = sin.at(t, j);
        out.at(t, head + j) = r(r(lo * c) - r(hi * s));
        out.at(t, head + j + half) = r(r(hi * c) + r(lo * s));
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
  Values out = filled(in.query_states.rows, in.query_states.columns, in.query_states.dtype, 0);
  const std::int64_t num_heads = in.query_states.columns / in.head_dim;
  const std::int64_t group = in.query_states.columns / in.key_states.columns;
  for (std::size_t prompt = 0; prompt + 1 < in.cu_seqlens.size(); ++prompt) {
    const std::int64_t begin = in.cu_seqlens[prompt], end = in.cu_seqlens[prompt + 1];
    for (std::int64_t t = begin; t < end; ++t) {
      const std::int64_t first = in.sliding_window > 0 ? std::max(begin, t - in.sliding_window + 1) : begin;
      for (std::int64_t head = 0; head < num_heads; ++head) {
        const std::int64_t q = head * in.head_dim, kv = head / group * in.head_dim;
        std::vector<double> weights;
        for (std::int64_t s = first; s <= t; ++s) {
          double score = 0;
          for (std::int64_t d = 0; d < in.head_dim; ++d)
            score += in.query_states.at(t, q + d) * in.key_states.at(s, kv + d);
          weights.push_back(score * in.scaling);
        }
        const double max = *std::max_element(weights.begin(), weights.end());
        double sum = 0;
        for (double& weight : weights) sum += weight = std::exp(weight - max);
        for (std::int64_t d = 0; d < in.head_dim; ++d) {
          double value = 0;
          for (std::int64_t s = first; s <= t; ++s) {
            value += weights[static_cast<std::size_t>(s - first)] * in.value_states.at(s, kv + d);
          }
          out.at(t, q + d) = rounded(value / sum, out.dtype);
        }
      }
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
