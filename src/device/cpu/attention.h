#pragma once

#include "device/cpu/loops.h"
#include "device/cpu/memory.h"
#include "device/cpu/workers.h"
#include "device/ops.h"

namespace layerprobe::device::cpu {

/// Keys and values of the prompts that attention is at work on; kept between calls.
struct AttentionScratch {
  Scratch keys, values;
};

/// As Ops::attention, arguments checked. Packs the keys and values of some prompts, then shares heads and blocks of
/// query rows among the threads.
void attention(const Ops::Attention& args, const Loops& loops, Workers& workers, AttentionScratch& scratch);

}  // namespace layerprobe::device::cpu
