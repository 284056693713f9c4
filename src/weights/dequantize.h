#pragma once

#include <cstdint>

#include "base/storage.h"

namespace layerprobe::weights {

/// The values of `num_blocks` consecutive blocks of a quantised `storage` (q4_0 to q6_k) to `out`
/// [num_blocks * block_elements], as ggml's dequantize_row_* computes them (ggml-quants.c, model-math 10.2). Every
/// product there is exact in f32 but q6_k's last, so contraction to FMA or another order gives the same bits.
void dequantize(Storage storage, const std::uint8_t* blocks, std::int64_t num_blocks, float* out);

}  // namespace layerprobe::weights
