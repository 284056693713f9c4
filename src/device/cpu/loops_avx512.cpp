// The loops for AVX-512 (x86-64-v4), with and without its bf16 products. CMakeLists.txt names the flags; loops/vector.h
// says what may stand here.
#include <immintrin.h>

#include "device/cpu/loops.h"

namespace layerprobe::device::cpu {
namespace {

constexpr int kVectorBytes = 64;
constexpr int kTileRows = 8;  // 16 sums, two vectors of the panel and one of the row: 19 of 32 registers

using F32 = float __attribute__((vector_size(kVectorBytes)));
using F64 = double __attribute__((vector_size(kVectorBytes)));

inline F32 multiply_add(F32 a, F32 b, F32 c) { return (F32)_mm512_fmadd_ps((__m512)a, (__m512)b, (__m512)c); }
inline F64 multiply_add(F64 a, F64 b, F64 c) { return (F64)_mm512_fmadd_pd((__m512d)a, (__m512d)b, (__m512d)c); }

}  // namespace
}  // namespace layerprobe::device::cpu

#include "device/cpu/loops/table.h"

namespace layerprobe::device::cpu {
namespace {

/// Two elements of bf16 in a term: _mm512_dpbf16_ps adds both products to an f32 sum, and twice as many in a second.
/// Denormal numbers count as 0.
struct Bf16Pairs {
  using Term = std::uint32_t;

  static std::int64_t count(std::int64_t head_dim) { return (head_dim + 1) / 2; }

  static Term pair(const Bf16* elements, std::int64_t first, std::int64_t head_dim) {
    const Term low = elements[first].bits;
    return first + 1 < head_dim ? low | static_cast<Term>(elements[first + 1].bits) << 16 : low;
  }
  static void copy_query(Term* to, const Bf16* query, std::int64_t head_dim) {
    for (std::int64_t d = 0; d < head_dim; d += 2) to[d / 2] = pair(query, d, head_dim);
  }
  static void copy_key(Term* to, const Bf16* key, std::int64_t head_dim) {
    for (std::int64_t d = 0; d < head_dim; d += 2) to[d / 2 * kPanel<float>] = pair(key, d, head_dim);
  }
  /// As multiply_panel.
  [[gnu::target("avx512bf16")]] static void multiply(const Term* queries, const Term* keys, std::int64_t count,
                                                     float* scores, std::int64_t scores_stride) {
    F32 sums[kTileRows][2] = {};
    for (std::int64_t k = 0; k < count; ++k) {
      const auto left = (__m512bh)_mm512_loadu_si512(keys + k * kPanel<float>);
      const auto right = (__m512bh)_mm512_loadu_si512(keys + k * kPanel<float> + kLanes<float>);
#pragma GCC unroll 16
      for (int row = 0; row < kTileRows; ++row) {
        const auto factor = (__m512bh)_mm512_set1_epi32(static_cast<int>(queries[row * count + k]));
        sums[row][0] = (F32)_mm512_dpbf16_ps((__m512)sums[row][0], factor, left);
        sums[row][1] = (F32)_mm512_dpbf16_ps((__m512)sums[row][1], factor, right);
      }
    }
#pragma GCC unroll 16
    for (int row = 0; row < kTileRows; ++row) {
      store(scores + row * scores_stride, sums[row][0]);
      store(scores + row * scores_stride + kLanes<float>, sums[row][1]);
    }
  }
};

}  // namespace

const Loops kAvx512Loops = loops_table("avx512");
const Loops kAvx512Bf16Loops = loops_table<Bf16Pairs>("avx512_bf16");

}  // namespace layerprobe::device::cpu
