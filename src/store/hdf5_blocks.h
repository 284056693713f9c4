#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <string_view>

#include "base/file.h"

namespace layerprobe::store::hdf5 {

/// HDF5's undefined address.
inline constexpr std::uint64_t kNowhere = ~std::uint64_t{0};

/// The checksum of HDF5's metadata: Jenkins' lookup3, hashlittle() from 0.
std::uint32_t checksum_of(std::string_view bytes);

/// The smallest number of bytes that holds every integer up to `most`.
std::size_t bytes_for(std::uint64_t most);

/// The fields of a piece of metadata, one after the other. A field beyond the end throws Error(input) with `where`.
class Fields {
 public:
  Fields(std::string bytes, std::string where) : bytes_(std::move(bytes)), where_(std::move(where)) {}

  /// Little-endian, of up to 8 bytes.
  std::uint64_t integer(std::size_t bytes);
  std::uint8_t byte() { return static_cast<std::uint8_t>(integer(1)); }
  std::uint64_t address() { return integer(8); }
  std::string text(std::uint64_t bytes);
  void skip(std::uint64_t bytes);
  std::size_t left() const { return bytes_.size() - at_; }

  const std::string& where() const { return where_; }
  [[noreturn]] void refuse(std::string what) const;
  /// Throws unless the next byte, a version of `what`, is `version`.
  void expect_version(unsigned version, const char* what);

 private:
  std::string bytes_;
  std::string where_;
  std::size_t at_ = 0;
};

/// Reads metadata from a file, which is trusted in nothing: every piece lies inside it, has its signature and a right
/// checksum, and all pieces together are at most about twice as large as the file, so that no chain of them runs in a
/// circle.
class Blocks {
 public:
  explicit Blocks(const layerprobe::File& file)
      : file_(file), file_bytes_(file.size()), budget_(2 * file_bytes_ + 65'536) {}

  const layerprobe::File& file() const { return file_; }
  std::uint64_t file_bytes() const { return file_bytes_; }
  /// "<file>: <what> at byte <address>"
  std::string where(const char* what, std::uint64_t address) const;

  /// The first of a piece, where its size stands; `bytes` at most. Nothing is checked yet.
  Fields peek(std::uint64_t address, std::uint64_t bytes, const char* what);
  /// A piece of `bytes` that begins with `signature` and ends with its checksum: the fields between the two.
  Fields block(std::uint64_t address, std::uint64_t bytes, std::string_view signature, const char* what);
  /// A piece without signature whose checksum is `checksum_at` bytes behind its begin, and counts as zeros in itself;
  /// all of it.
  std::string checked_inside(std::uint64_t address, std::uint64_t bytes, std::size_t checksum_at, const char* what);
  /// Bytes without checksum.
  std::string plain(std::uint64_t address, std::uint64_t bytes, const char* what);

 private:
  const layerprobe::File& file_;
  std::uint64_t file_bytes_;
  std::uint64_t budget_;
};

}  // namespace layerprobe::store::hdf5
