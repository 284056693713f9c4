#pragma once

#include <cstddef>

#include "base/dtype.h"
#include "base/file.h"
#include "weights/tensor_info.h"

namespace layerprobe::weights {

/// All values of `tensor`, whose bytes lie in `file`, converted to `dtype` (convert.h), row-major in transformers'
/// order, to `out` [num_elements]. On all cores where it is large; takes at most 1 MiB a core beyond `out`.
/// Throws Error(input) when the file is shorter than it was, and for a storage that is not convertible.
void read_values(const File& file, const TensorInfo& tensor, Dtype dtype, std::byte* out);

/// Throws Error(input), naming the tensor, unless its storage is convertible.
void require_convertible(const File& file, const TensorInfo& tensor);

}  // namespace layerprobe::weights
