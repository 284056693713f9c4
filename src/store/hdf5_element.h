#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace layerprobe::store::hdf5 {

/// What one element of a dataset is.
enum class Element : std::uint8_t { u8, i32, i64, f16, bf16, f32, f64 };

std::size_t size_of(Element element);
/// As in store/format.h: "u8", "bf16", ...
const char* name_of(Element element);
Element element_of(Dtype dtype);

}  // namespace layerprobe::store::hdf5
