#pragma once

#include <memory>
#include <string>

#include "device/cpu/loops.h"
#include "device/ops.h"

namespace layerprobe::device::cpu {

/// cpu_ops with chosen loops, one of supported_loops(). Without `native_bf16` bf16 products run in f32, as they do on a
/// processor that has no bf16 instructions. For tests: every code path that this processor has.
std::unique_ptr<Ops> cpu_ops_on(const Loops& loops, bool native_bf16, int threads, std::string name = "cpu");

}  // namespace layerprobe::device::cpu
