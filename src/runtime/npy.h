#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/file.h"

namespace layerprobe::runtime {

/// What the header of a .npy file says: row-major, little-endian, its elements from `offset` on, all of them in the
/// file.
struct NpyHeader {
  std::string type;  // as numpy writes it, without the byte order: "f4", "i8", "V2"
  std::vector<std::int64_t> shape;
  std::int64_t count = 0;  // of elements
  std::uint64_t offset = 0;
};

/// Throws Error(input), with `fix`, for what is no .npy file, is big-endian, in Fortran order or cut off. Source:
/// numpy's "NPY format" (numpy.lib.format), versions 1 to 3.
NpyHeader read_npy_header(const File& file, const std::string& fix);

/// A two-dimensional .npy file of integers (any width, little-endian, C order).
struct IntegerMatrix {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::vector<std::int64_t> values;  // [rows, columns]
};

/// Throws Error(input) for anything else, and for more than `max_elements`.
IntegerMatrix read_npy_integers(const std::filesystem::path& path, std::int64_t max_elements);

}  // namespace layerprobe::runtime
