#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/statistics.h"
#include "tests/support/values.h"

/// What the operations of device/ops.h mean, written plainly in f64 and rounded once, at the end, to the inputs' dtype.
/// rope and add also round where the operation does, so that their results are exact.
namespace layerprobe::test {

/// bias: [1, out_features], or no rows.
Values matmul_in_f64(const Values& x, const Values& weight, const Values& bias);
Values rms_norm_in_f64(const Values& x, const Values& weight, double rms_norm_eps);
Values rope_in_f64(const Values& x, const Values& cos, const Values& sin, std::int64_t head_dim, std::int64_t first = 0,
                   bool interleaved = false);
Values silu_mul_in_f64(const Values& gate, const Values& up);  // up: no rows for silu alone
Values add_in_f64(const Values& a, const Values& b);

struct AttentionInputs {
  Values query_states, key_states, value_states;
  std::vector<std::int64_t> cu_seqlens;
  std::int64_t head_dim;
  double scaling;
  std::int64_t sliding_window;
};
Values attention_in_f64(const AttentionInputs& inputs);

struct RouteInputs {
  Values router_logits;
  Values selection_bias;  // no rows for none
  bool is_sigmoid;
  bool normalizes;
  bool rounds_weights;
  std::int64_t num_choices;
  std::int64_t num_groups = 1;
  std::int64_t topk_groups = 1;
  double divisor_epsilon = 0;
  double scaling_factor = 1;
};
struct Routed {
  Values indices;  // i32
  Values weights;
};
Routed route_tokens_in_f64(const RouteInputs& inputs);

struct Grouped {
  Values row_of_choice, token_of_row;  // i32
  std::vector<std::int64_t> first_rows;
};
Grouped group_by_expert_plainly(const Values& topk_indices, std::int64_t num_experts);

Values combine_experts_in_f64(const Values& expert_outputs, const Values& row_of_choice, const Values& topk_weights,
                              bool rounds_products);

/// The tree of base/statistics.h, element by element.
Statistics row_statistics_in_f64(const Values& x, std::int64_t row);
Values mean_rows_in_f64(const Values& x, std::span<const std::int64_t> cu_seqlens);

}  // namespace layerprobe::test
