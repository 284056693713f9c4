#pragma once

#include <cstddef>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/stored_values.h"
#include "tests/support/temp_folder.h"
#include "tests/support/values.h"
#include "weights/read_scaled.h"
#include "weights/read_values.h"

namespace layerprobe::test {

inline Storage storage_of(Dtype dtype) {
  for (const Storage storage : {Storage::f64, Storage::f32, Storage::f16, Storage::bf16}) {
    if (is_same(storage, dtype)) return storage;
  }
  expect(false, "weights are stored in a floating dtype");
  return {};
}

/// A file of matrices to be loaded, in memory where there is such a place. The values end with it.
class StoredFile {
 public:
  /// The file begins with `offset` bytes of something else.
  explicit StoredFile(std::size_t offset = 0)
      : path_(folder_.write("values", std::string(offset, '\x55'))), file_(File::open_for_reading(path_)) {}

  device::StoredValues add(std::int64_t rows, std::int64_t columns, Storage storage,
                           const std::vector<std::byte>& bytes, std::int64_t interleaved_heads = 0) {
    const std::uint64_t offset = file_.size();
    std::ofstream(path_, std::ios::binary | std::ios::app)
        .write(reinterpret_cast<const char*>(bytes.data()), static_cast<std::streamsize>(bytes.size()));
    const weights::TensorInfo info{.name = "stored",
                                   .storage = storage,
                                   .shape = rows == 1 ? std::vector{columns} : std::vector{rows, columns},
                                   .offset = offset,
                                   .bytes = bytes.size(),
                                   .interleaved_heads = interleaved_heads};
    return {.rows = rows,
            .columns = columns,
            .storage = storage,
            .file = &file_,
            .offset = offset,
            .interleaved_heads = interleaved_heads,
            .read_values = [this, info](Dtype dtype, void* out) {
              weights::read_values(file_, info, dtype, static_cast<std::byte*>(out));
            }};
  }

  device::StoredValues add(const Values& values) {
    return add(values.rows, values.columns, storage_of(values.dtype), bytes_of(values));
  }

  /// An F8_E4M3 matrix without NaN, and factors from 0.5 to 2 of its blocks.
  device::StoredValues add_fp8(std::int64_t rows, std::int64_t columns, std::int64_t block_rows,
                               std::int64_t block_columns, std::uint64_t seed) {
    std::vector<std::byte> stored(static_cast<std::size_t>(rows * columns));
    for (std::size_t i = 0; i < stored.size(); ++i) {
      const std::uint64_t random = (i + seed * 7919) * 2654435761u >> 7;
      stored[i] = static_cast<std::byte>(random % 127 | (random >> 8 & 0x80));
    }
    const std::int64_t down = (rows + block_rows - 1) / block_rows;
    const std::int64_t across = (columns + block_columns - 1) / block_columns;
    Values factors = filled(down, across, Dtype::f32, 0);
    for (std::size_t i = 0; i < factors.data.size(); ++i) {
      factors.data[i] = static_cast<float>(0.5 + 1.5 * static_cast<double>((i * 37 + seed) % 101) / 101);
    }
    device::StoredValues values = add(rows, columns, Storage::f8_e4m3, stored);
    const device::StoredValues scales = add(factors);
    values.scales = device::BlockScales{.rows = down,
                                        .columns = across,
                                        .block_rows = block_rows,
                                        .block_columns = block_columns,
                                        .storage = Storage::f32,
                                        .file = &file_,
                                        .offset = scales.offset};
    const auto info = [](std::int64_t height, std::int64_t width, Storage storage, std::uint64_t offset) {
      return weights::TensorInfo{.name = "stored", .storage = storage, .shape = {height, width}, .offset = offset};
    };
    values.read_values = [=, this, tensor = info(rows, columns, Storage::f8_e4m3, values.offset),
                          scales_tensor = info(down, across, Storage::f32, scales.offset)](Dtype dtype, void* out) {
      weights::read_scaled_values({file_, tensor, file_, scales_tensor, block_rows, block_columns}, dtype,
                                  static_cast<std::byte*>(out));
    };
    return values;
  }

  const std::filesystem::path& path() const { return path_; }
  const File& file() const { return file_; }

 private:
  TempFolder folder_{memory_folder()};
  std::filesystem::path path_;
  File file_;
};

}  // namespace layerprobe::test
