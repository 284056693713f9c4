#pragma once

#include <cstddef>
#include <cstdint>
#include <initializer_list>

namespace layerprobe::kernels {

/// Rows in a device's memory: element (r, c) is at data + (r * row_stride + c) elements. A row_stride of 0 repeats one
/// row.
struct Matrix {
  void* data = nullptr;
  std::int64_t row_stride = 0;
};

/// Whether each row of each matrix begins at a multiple of 16 bytes, the widest access there is, and so does what comes
/// after its columns. One row counts as many: kernels choose their way by the layout, never by the number of rows.
inline bool are_aligned(std::initializer_list<Matrix> matrices, std::int64_t columns, std::size_t element_bytes) {
  if (static_cast<std::size_t>(columns) * element_bytes % 16 != 0) return false;
  for (const Matrix& matrix : matrices) {
    if (reinterpret_cast<std::uintptr_t>(matrix.data) % 16 != 0) return false;
    if (static_cast<std::size_t>(matrix.row_stride) * element_bytes % 16 != 0) return false;
  }
  return true;
}

}  // namespace layerprobe::kernels
