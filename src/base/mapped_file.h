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

  /// Makes sure that the range has its space, as File::allocate does, and throws what that throws. Any thread. Where
  /// the system can (MADV_COLLAPSE, Linux 6.1), in pages of 2 MiB, however the tmpfs is mounted: several threads
  /// allocate ten times as fast then as one can in small pages, and no more than one at a time does those.
  void allocate(std::uint64_t offset, std::uint64_t size) const;

  /// The pages of the range have their space. Where they have not and memory is short, the system
  /// ends the process (SIGBUS).
  void store(std::uint64_t offset, std::span<const std::byte> bytes) const;

 private:
  class Unmap {
   public:
    explicit Unmap(std::size_t size) : size_(size) {}
    void operator()(std::byte* bytes) const;

   private:
    std::size_t size_;
  };

  MappedFile(const File& file, void* addresses, std::size_t num_addresses);

  const File* file_;
  std::size_t size_;
  std::unique_ptr<std::byte[], Unmap> addresses_;  // more than size_
  std::byte* bytes_;                               // the file's, from a huge page's beginning on
};

/// Stores `bytes` at `to`, which is where the file of `descriptor` is mapped at `offset`. No system call, so that the
/// crash tests could not see it: they define this function themselves, which is why it has a source of its own.
void store_mapped(int descriptor, std::uint64_t offset, std::byte* to, std::span<const std::byte> bytes);

}  // namespace layerprobe
