#pragma once

#include "device/cpu/loops.h"
#include "device/cpu/loops/attention.h"
#include "device/cpu/loops/elementwise.h"
#include "device/cpu/loops/matmul.h"
#include "device/cpu/loops/rms_norm.h"
#include "device/cpu/loops/statistics.h"

namespace layerprobe::device::cpu {
namespace {

/// Bf16Terms: how attention multiplies queries and keys of bf16.
template <typename Bf16Terms = SingleTerms<Bf16>>
constexpr Loops loops_table(const char* name) {
  return {.name = name,
          .panel_bytes = 2 * kVectorBytes,
          .round_rows = round_rows,
          .expand_rows = expand_rows,
          .rms_norm = rms_norm,
          .rope = rope,
          .silu_mul = silu_mul,
          .add = add,
          .row_statistics = row_statistics,
          .mean_rows = mean_rows,
          .pack_key_values = pack_key_values<Bf16Terms>,
          .attention_scratch_bytes = attention_scratch_bytes,
          .attention_query_tokens = kQueryTokens,
          .attention = attention<Bf16Terms>,
          .pack_weight = pack_weight,
          .matmul_rows = kMatmulRows,
          .matmul_scratch_bytes = matmul_scratch_bytes,
          .matmul = matmul};
}

}  // namespace
}  // namespace layerprobe::device::cpu
