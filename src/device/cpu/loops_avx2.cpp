// The loops for AVX2 with FMA. CMakeLists.txt names the flags; loops/vector.h says what may stand here.
#include <immintrin.h>

#include "device/cpu/loops.h"

namespace layerprobe::device::cpu {
namespace {

constexpr int kVectorBytes = 32;
constexpr int kTileRows = 6;  // 12 sums, two vectors of the panel and one of the row: 15 of 16 registers

using F32 = float __attribute__((vector_size(kVectorBytes)));
using F64 = double __attribute__((vector_size(kVectorBytes)));

inline F32 multiply_add(F32 a, F32 b, F32 c) { return (F32)_mm256_fmadd_ps((__m256)a, (__m256)b, (__m256)c); }
inline F64 multiply_add(F64 a, F64 b, F64 c) { return (F64)_mm256_fmadd_pd((__m256d)a, (__m256d)b, (__m256d)c); }

}  // namespace
}  // namespace layerprobe::device::cpu

#include "device/cpu/loops/table.h"

namespace layerprobe::device::cpu {

const Loops kAvx2Loops = loops_table("avx2");

}  // namespace layerprobe::device::cpu
