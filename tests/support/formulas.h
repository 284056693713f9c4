#pragma once

#include <cstdint>
#include <span>

#include "base/statistics.h"
#include "tests/support/values.h"

/// What the operations of device/ops.h mean, written plainly in f64 and rounded once, at the end, to the inputs' dtype.
/// rope and add also round where the operation does, so that their results are exact.
namespace layerprobe::test {

/// bias: [1, out_features], or no rows.
Values matmul_in_f64(const Values& x, const Values& weight, const Values& bias);
Values rms_norm_in_f64(const Values& x, const Values& weight, double rms_norm_eps);
Values rope_in_f64(const Values& x, const Values& cos, const Values& sin, std::int64_t head_dim);
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

/// The tree of base/statistics.h, element by element.
Statistics row_statistics_in_f64(const Values& x, std::int64_t row);
Values mean_rows_in_f64(const Values& x, std::span<const std::int64_t> cu_seqlens);

}  // namespace layerprobe::test
