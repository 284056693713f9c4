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

#include "device/cpu/loops/bf16_pairs.h"
#include "device/cpu/loops/table.h"

namespace layerprobe::device::cpu {

const Loops kAvx512Loops = loops_table("avx512");
const Loops kAvx512Bf16Loops = loops_table<Bf16Pairs>("avx512_bf16");

}  // namespace layerprobe::device::cpu
