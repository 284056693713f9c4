#pragma once

#include <cstddef>
#include <cstdint>

#include "base/dtype.h"

namespace layerprobe::device {

/// A matrix on a device, seen through a pointer: never owns, cheap to copy.
///
/// Rows may lie apart: element (r, c) is at data + (r * row_stride + c) elements. Heads are columns: a
/// [num_tokens, num_heads, head_dim] value is [num_tokens, num_heads * head_dim].
struct Tensor {
  void* data = nullptr;
  Dtype dtype = Dtype::f32;
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t row_stride = 0;  // in elements, at least `columns`

  static Tensor contiguous(void* data, Dtype dtype, std::int64_t rows, std::int64_t columns) {
    return {.data = data, .dtype = dtype, .rows = rows, .columns = columns, .row_stride = columns};
  }

  bool is_contiguous() const { return row_stride == columns || rows <= 1; }

  Tensor column_slice(std::int64_t first, std::int64_t count) const {
    Tensor slice = *this;
    slice.data = static_cast<std::byte*>(data) + static_cast<std::size_t>(first) * size_of(dtype);
    slice.columns = count;
    return slice;
  }

  Tensor row_slice(std::int64_t first, std::int64_t count) const {
    Tensor slice = *this;
    slice.data = static_cast<std::byte*>(data) + static_cast<std::size_t>(first * row_stride) * size_of(dtype);
    slice.rows = count;
    return slice;
  }
};

}  // namespace layerprobe::device
