#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/file.h"
#include "device/stored_values.h"
#include "device/tensor.h"

namespace layerprobe::device {

/// One matrix to bring from a file to its place on the GPU.
struct QueuedLoad {
  Tensor out;
  StoredValues values;
};

/// A file, and how it is read.
struct LoadSource {
  const File* file;
  std::optional<File> direct;  // where most of it would come from the disk, past the page cache
};

/// Some of the bytes of a load.
struct LoadPart {
  std::size_t load;     // its index
  std::uint64_t begin;  // in the load's own bytes; a whole block, as is the end where they are converted
  std::uint64_t end;
};

/// What is read at once: bytes of a file, and the loads that they belong to.
struct LoadPiece {
  std::size_t source;   // its index
  std::uint64_t begin;  // in the file
  std::uint64_t end;
  std::vector<LoadPart> parts;
  std::uint64_t bytes = 0;  // of all parts: what a reader is told
};

/// How loads are read: in the order of the files and of the bytes in each, small neighbours at once, large ones cut.
struct LoadPlan {
  /// At most, from the multiple of kDirectAlignment below a piece's begin to the one above its end. Measured against
  /// 0.5, 1, 4 and 8 MiB: docs/benchmarks.md.
  static constexpr std::size_t kPieceBytes = std::size_t{2} << 20;
  static constexpr std::size_t kMostParts = 64;  // of a piece

  /// `loads` are put in the order in which they are read.
  explicit LoadPlan(std::vector<QueuedLoad> loads);

  /// Whether the values go to their place as they are, byte for byte.
  static bool is_copy(const QueuedLoad& load);

  std::vector<QueuedLoad> loads;
  std::vector<LoadSource> sources;
  std::vector<LoadPiece> pieces;
  bool converts = false;       // any of them
  std::size_t room_bytes = 0;  // for the largest piece; a multiple of kDirectAlignment
};

/// Brings a piece's bytes to `room` [room_bytes], which begins at a multiple of kDirectAlignment; returns where byte
/// piece.begin lies. Any thread. Throws Error(input) when the file ends before the piece does.
const std::byte* read_piece(const LoadSource& source, const LoadPiece& piece, std::span<std::byte> room);

}  // namespace layerprobe::device
