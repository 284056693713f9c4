#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/dtype.h"
#include "base/file.h"
#include "base/storage.h"

namespace layerprobe::device {

/// The factors of an F8_E4M3 matrix: one for each block of [block_rows, block_columns] of it, the last ones partial.
struct BlockScales {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  std::int64_t block_rows = 0;
  std::int64_t block_columns = 0;
  Storage storage = Storage::f32;
  const File* file = nullptr;
  std::uint64_t offset = 0;

  bool operator==(const BlockScales&) const = default;
};

/// A matrix [rows, columns] as a file stores it, row-major, on its way to a device. Rows are whole blocks of `storage`,
/// which is_convertible() or has `scales`: then a value is rounded(f32 of what is stored * its block's factor) (in f64
/// to f64).
struct StoredValues {
  std::int64_t rows = 0;
  std::int64_t columns = 0;
  Storage storage = Storage::f32;
  const File* file = nullptr;
  std::uint64_t offset = 0;  // of the first byte, in the file
  /// Not 0: the rows (of a bias [1, columns]: the values) are those of so many heads, and each head's are stored in
  /// the order 0, head_dim / 2, 1, head_dim / 2 + 1, ...: a GGUF's q and k projections.
  std::int64_t interleaved_heads = 0;
  std::optional<BlockScales> scales = std::nullopt;
  /// The values are what read_values gives and nothing that a device could make of the file's bytes by itself.
  bool only_read_values = false;
  /// All values, in order and converted to `dtype`, to `out`: for a device whose memory the host's processors fill.
  /// Called by the thread that queues the load. Conversion is to nearest, ties to even, through f32, or directly from
  /// F64 and integers to f64; the same dtype keeps its bits.
  std::function<void(Dtype dtype, void* out)> read_values;

  std::uint64_t bytes() const {
    const StorageTraits& traits = traits_of(storage);
    return static_cast<std::uint64_t>(rows * columns / traits.block_elements * traits.block_bytes);
  }
};

}  // namespace layerprobe::device
