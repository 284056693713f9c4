#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"
#include "base/storage.h"

namespace layerprobe::weights {

/// `count` values (whole blocks) as `storage` keeps them, to `out` in `dtype` (f64, f32, f16 or bf16): through f32, to
/// nearest, ties to even; f64 directly from F64 and integers; bit for bit where both are the same. No overlap; neither
/// needs to be aligned.
void convert(Storage storage, const std::byte* stored, std::int64_t count, Dtype dtype, std::byte* out);

}  // namespace layerprobe::weights
