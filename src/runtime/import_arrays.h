#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/file.h"
#include "base/storage.h"

namespace layerprobe::runtime {

/// An array of a file: rows of `width` elements, row r at offset + r * row_stride bytes.
struct Array {
  std::filesystem::path file;
  std::string name;  // array_names.h
  std::string where;
  Storage storage = Storage::f32;
  std::vector<std::int64_t> shape;
  std::uint64_t offset = 0;
  std::int64_t rows = 0, width = 0;
  std::uint64_t row_stride = 0;

  std::size_t element_bytes() const { return static_cast<std::size_t>(traits_of(storage).block_bytes); }
};

/// Every array of the .npy and .safetensors files that the sources are, or hold, in the natural order of their names.
/// `rows`, `width` and `row_stride` are not set. Throws Error(input) for a file that is none, and where there is none.
std::vector<Array> arrays_of(const std::vector<std::string>& sources);

/// Sets them: [1, rows, width] is [rows, width], and [width] one row. Throws Error(input) for another shape.
void set_rows(Array& array);

/// What an array's values are kept as. Throws Error(input) for what is not imported.
Dtype kept_as(const Array& array);

/// All of an array's numbers, for token ids. Throws Error(input) where they cannot be some.
std::vector<std::int32_t> ids_of(const Array& array);

/// Rows [first, first + count), packed, in the dtype they are kept as. `file` is the array's. Throws Error(input) for
/// an I64 that is no int32.
void read_rows(const Array& array, const File& file, std::int64_t first, std::int64_t count,
               std::vector<std::byte>& out);
/// As many as make a piece that is good to read.
std::int64_t rows_at_once(const Array& array);
/// Before anything is written: throws what read_rows would.
void check_integers(const Array& array);

}  // namespace layerprobe::runtime
