#pragma once

#include <cstddef>
#include <fstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "device/stored_values.h"
#include "tests/support/temp_folder.h"
#include "tests/support/values.h"
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

  const std::filesystem::path& path() const { return path_; }
  const File& file() const { return file_; }

 private:
  TempFolder folder_{memory_folder()};
  std::filesystem::path path_;
  File file_;
};

}  // namespace layerprobe::test
