#pragma once

#include <memory>

#include "device/cpu/loops.h"
#include "device/cpu/workers.h"
#include "device/ops.h"

namespace layerprobe::device::cpu {

/// As Ops::matmul_weight, arguments checked. bf16 is multiplied as it is with `native_bf16`; otherwise it is expanded
/// to f32, weight and x, as f16 always is: twice the memory for the weight. f64 goes through our own loops.
std::unique_ptr<MatMulWeight> pack_weight(const Ops::MatMulWeightParts& parts, const Loops& loops, bool native_bf16,
                                          Workers& workers);

/// As Ops::matmul; checks its arguments. The weight is one of pack_weight's.
void matmul(const Ops::MatMul& args, const Loops& loops, Workers& workers);

}  // namespace layerprobe::device::cpu
