#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/file.h"

namespace layerprobe {

/// Writes a file past the page cache (O_DIRECT), which is how a disk takes much data at its full rate. write_at(): any
/// thread, at disjoint ranges.
///
/// Of a range, the pages that it covers whole go straight to the disk, from the caller's memory where that is aligned
/// as the disk wants it, else from an aligned copy. The pages at its ends that it covers in part, and small ranges, go
/// through the page cache, as all that is written to the file itself: so no page is written both ways by writers of
/// disjoint ranges, however they lie. Where direct writing is refused, all goes through the page cache.
///
/// Reading `file` stays right: a direct write drops what the cache holds of its pages, before and after. Only what is
/// read ahead beside a page that is just then written could stay stale; that is turned off.
class DirectFile {
 public:
  /// `file` outlives this.
  explicit DirectFile(const File& file);

  /// As File::write_at. File::sync_data() of `file` syncs this too.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes);

 private:
  /// Of whole blocks: how many of `bytes` are written, all if nothing is refused.
  std::size_t write_blocks_at(std::uint64_t offset, std::span<const std::byte> bytes);

  const File& file_;
  const std::optional<File> direct_;
  std::size_t memory_alignment_, block_bytes_;
  std::atomic<bool> works_;
};

}  // namespace layerprobe
