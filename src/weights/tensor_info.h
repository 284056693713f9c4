#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <vector>

#include "base/storage.h"

namespace layerprobe::weights {

struct TensorInfo {
  std::string name;  // transformers' name, also for a GGUF
  Storage storage;
  std::vector<std::int64_t> shape;  // row-major, [out, in]; a GGUF's dims reversed
  int file = 0;                     // index into Checkpoint::files()
  std::uint64_t offset = 0;         // of the first byte, in the file
  std::uint64_t bytes = 0;
  /// Not 0: the rows of a GGUF's q or k projection, stored in adjacent-pair order for this many heads; read() gives
  /// transformers' order back.
  std::int64_t interleaved_heads = 0;

  std::int64_t num_elements() const;
};

/// The product of `shape`; nothing when one is negative or the product is over 2^62.
std::optional<std::int64_t> product_of(const std::vector<std::int64_t>& shape);

/// The bytes `shape` takes in `storage`; nothing when the product overflows or rows are not whole blocks.
std::optional<std::uint64_t> bytes_of(const std::vector<std::int64_t>& shape, Storage storage);

/// Sorts by name. Throws Error(input) when a name stands twice, with the files (indexed by TensorInfo::file).
void sort_by_name(std::vector<TensorInfo>& tensors, const std::vector<std::filesystem::path>& files);

}  // namespace layerprobe::weights
