#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace layerprobe::runtime {

/// A two-dimensional .npy file of integers (any width, little-endian, C order).
struct IntegerMatrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<std::int64_t> values;  // [rows, columns]
};

/// Throws Error(input) for anything else, and for more than `max_elements`. Source: numpy's "NPY format"
/// (numpy.lib.format), versions 1 to 3.
IntegerMatrix read_npy_integers(const std::filesystem::path& path, std::int64_t max_elements);

}  // namespace layerprobe::runtime
