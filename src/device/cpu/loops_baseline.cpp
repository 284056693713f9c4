// The loops for any processor: x86-64 with SSE2, or another architecture. loops/vector.h says what may stand here.
#include "device/cpu/loops.h"

namespace layerprobe::device::cpu {
namespace {

constexpr int kVectorBytes = 16;
constexpr int kTileRows = 6;  // 12 sums, two vectors of the panel and one of the row: 15 of 16 registers

using F32 = float __attribute__((vector_size(kVectorBytes)));
using F64 = double __attribute__((vector_size(kVectorBytes)));

inline F32 multiply_add(F32 a, F32 b, F32 c) { return a * b + c; }
inline F64 multiply_add(F64 a, F64 b, F64 c) { return a * b + c; }

}  // namespace
}  // namespace layerprobe::device::cpu

#include "device/cpu/loops/table.h"

namespace layerprobe::device::cpu {

const Loops kBaselineLoops = loops_table("baseline");

}  // namespace layerprobe::device::cpu
