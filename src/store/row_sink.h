#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "base/direct_file.h"
#include "base/file.h"
#include "base/mapped_file.h"
#include "store/contents.h"
#include "store/space_ahead.h"

namespace layerprobe::store {

/// Gives the file the space that it must have before its rows are written: on a disk all of it, in memory all but that
/// of the captures, which a RowSink sets aside while the run goes on.
void set_space_aside(const File& file, const Contents& contents);

/// Puts captured rows into a file as fast as what it lies on takes them: in memory (tmpfs) through a shared mapping, on
/// a disk past the page cache. write(): any thread, at disjoint places.
class RowSink {
 public:
  /// After set_space_aside. Both outlive this.
  RowSink(const File& file, const Contents& contents);

  /// From byte `begin` of the point's dataset on. Waits until that has its space; throws Error(resource) when the disk
  /// refuses that, or once it has refused any other of the file's space.
  void write(std::size_t point, std::uint64_t begin, std::span<const std::byte> rows);
  /// Throws the same error.
  void check();
  /// Ends its thread. No more writing.
  void stop();

  /// That write() waited for space, all threads together.
  double waited_seconds() const;

 private:
  const File& file_;
  const Contents& contents_;
  std::optional<DirectFile> direct_;   // on a disk
  std::optional<MappedFile> mapping_;  // in memory, where the system maps it
  std::optional<SpaceAhead> space_;    // in memory; ends before the mapping does
};

}  // namespace layerprobe::store
