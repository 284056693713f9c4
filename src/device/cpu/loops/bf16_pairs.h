#pragma once

// Attention's products in bf16 as AVX512_BF16 has them. For loops_avx512.cpp.

#include <immintrin.h>

#include "device/cpu/loops/attention_terms.h"

namespace layerprobe::device::cpu {
namespace {

/// As SingleTerms, two elements of bf16 in a term, the first in the lower half: _mm512_dpbf16_ps adds both products to
/// an f32 sum. Denormal numbers count as 0 there.
struct Bf16Pairs {
  using Term = std::uint32_t;
  static constexpr bool kRoundsWeights = true;

  static std::int64_t count(std::int64_t elements) { return (elements + 1) / 2; }

  static void pack_query(Term* to, const Bf16* query, std::int64_t head_dim) {
    to[count(head_dim) - 1] = 0;  // an odd head_dim leaves half of it
    __builtin_memcpy(to, query, static_cast<std::size_t>(head_dim) * sizeof(Bf16));
  }
  static void pack_key(Term* to, const Bf16* key, std::int64_t head_dim) {
    std::int64_t d = 0;
    for (; d + 1 < head_dim; d += 2) __builtin_memcpy(to + d / 2 * kPanel<float>, key + d, sizeof(Term));
    if (d < head_dim) to[d / 2 * kPanel<float>] = key[d].bits;
  }

  static void pack_values(Term* to, std::int64_t panel_stride, const Tensor& values) {
    for (std::int64_t token = 0; token < values.rows; token += 2) {
      const Bf16* first = row_of<const Bf16>(values, token);
      const Bf16* second = token + 1 < values.rows ? row_of<const Bf16>(values, token + 1) : nullptr;
      for (std::int64_t d = 0; d < padded_head_dim<float>(values.columns); d += kPanel<float>) {
        Term* row = to + d / kPanel<float> * panel_stride + token / 2 * kPanel<float>;
        for (std::int64_t column = 0; column < kPanel<float>; ++column) {
          const bool inside = d + column < values.columns;
          const Term low = inside ? first[d + column].bits : 0u;
          const Term high = inside && second != nullptr ? second[d + column].bits : 0u;
          row[column] = low | high << 16;
        }
      }
    }
  }
  static void copy_seen_values(Term* to, const Term* values, std::int64_t keys, Rows seen) {
    const auto is_seen = [&](std::int64_t key) { return key >= seen.first && key < seen.last; };
    for (std::int64_t i = 0; i < count(keys) * kPanel<float>; ++i) {
      const std::int64_t key = i / kPanel<float> * 2;
      to[i] = values[i] & ((is_seen(key) ? 0xffffu : 0u) | (is_seen(key + 1) ? 0xffff0000u : 0u));
    }
  }
  static void store_weights(Term* to, std::int64_t key, F32 weights) {
    const U16 half = narrow(weights, Bf16{});
    __builtin_memcpy(to + key / 2, &half, sizeof half);
  }
  [[gnu::target("avx512bf16")]] static void multiply(const Term* a, std::int64_t a_stride, const Term* b,
                                                     std::int64_t depth, float* c, std::int64_t c_stride, bool add) {
    F32 sums[kTileRows][2] = {};
    for (std::int64_t k = 0; k < depth; ++k) {
      const auto left = (__m512bh)_mm512_loadu_si512(b + k * kPanel<float>);
      const auto right = (__m512bh)_mm512_loadu_si512(b + k * kPanel<float> + kLanes<float>);
#pragma GCC unroll 16
      for (int row = 0; row < kTileRows; ++row) {
        int pair;
        __builtin_memcpy(&pair, a + row * a_stride + k, sizeof pair);
        const auto factor = (__m512bh)_mm512_set1_epi32(pair);
        sums[row][0] = (F32)_mm512_dpbf16_ps((__m512)sums[row][0], factor, left);
        sums[row][1] = (F32)_mm512_dpbf16_ps((__m512)sums[row][1], factor, right);
      }
    }
#pragma GCC unroll 16
    for (int row = 0; row < kTileRows; ++row) {
      float* left = c + row * c_stride;
      float* right = left + kLanes<float>;
      store(left, add ? load(left) + sums[row][0] : sums[row][0]);
      store(right, add ? load(right) + sums[row][1] : sums[row][1]);
    }
  }
};

}  // namespace
}  // namespace layerprobe::device::cpu
