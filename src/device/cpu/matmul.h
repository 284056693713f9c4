#pragma once

#include <memory>

#include "device/cpu/loops.h"
#include "device/cpu/onednn.h"
#include "device/cpu/workers.h"
#include "device/ops.h"

namespace layerprobe::device::cpu {

/// As Ops::matmul_weight, arguments checked. oneDNN multiplies bf16 where the processor can; everything else goes
/// through our own loops in f32 or f64, f16 and otherwise bf16 expanded to f32: twice the memory for the weight.
/// `onednn`: nullptr where the processor has no bf16 instructions.
std::unique_ptr<MatMulWeight> pack_weight(const Ops::MatMulWeightParts& stored, const Loops& loops, OneDnn* onednn,
                                          Workers& workers);

/// As Ops::matmul; checks its arguments. The weight is one of pack_weight's.
void matmul(const Ops::MatMul& args, const Loops& loops, Workers& workers);

/// As Ops::expert_weights, arguments checked: one such weight an expert.
std::unique_ptr<ExpertWeights> pack_expert_weights(const Ops::ExpertWeightsParts& stored, const Loops& loops,
                                                   OneDnn* onednn, Workers& workers);

/// As Ops::expert_matmul; checks its arguments.
void expert_matmul(const Ops::ExpertMatMul& args, const Loops& loops, Workers& workers);

}  // namespace layerprobe::device::cpu
