#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>

#include "base/file.h"

namespace layerprobe {

/// A file's bytes as memory that is shared with it: what is stored here is what anyone reads there. store(): any
/// thread, at disjoint ranges.
class MappedFile {
 public:
  /// All of `file`, which outlives this; nothing where the system does not map it.
  static std::optional<MappedFile> map(const File& file);

  /// The pages of the range have their space (File::allocate). Where they have not and memory is short, the system
  /// ends the process (SIGBUS).
  void store(std::uint64_t offset, std::span<const std::byte> bytes) const;

 private:
  struct Unmap {
    std::size_t size = 0;
    void operator()(std::byte* bytes) const;
  };

  MappedFile(const File& file, std::byte* bytes, std::size_t size) : file_(&file), bytes_(bytes, Unmap{size}) {}

  const File* file_;
  std::unique_ptr<std::byte[], Unmap> bytes_;
};

/// Stores `bytes` at `to`, which is where the file of `descriptor` is mapped at `offset`. No system call, so that the
/// crash tests could not see it: they define this function themselves, which is why it has a source of its own.
void store_mapped(int descriptor, std::uint64_t offset, std::byte* to, std::span<const std::byte> bytes);

}  // namespace layerprobe
