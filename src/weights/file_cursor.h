#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "base/file.h"

namespace layerprobe::weights {

/// Reads a file's header from some place on, front to back, through a buffer of 256 KiB. Every count is held against
/// what the file still has before memory is taken. Throws Error(input) where the file ends too early, and beyond the
/// file's first 100 MB.
class FileCursor {
 public:
  FileCursor(const File& file, std::uint64_t offset);

  std::uint64_t offset() const { return offset_; }
  std::uint64_t remaining() const { return size_ - offset_; }

  /// The next value, little-endian.
  template <typename T>
  T read() {
    static_assert(std::is_arithmetic_v<T>);
    if (buffer_end_ - offset_ < sizeof(T)) fill(sizeof(T));
    T value;
    std::memcpy(&value, buffer_.data() + (offset_ - buffer_begin_), sizeof(T));
    offset_ += sizeof(T);
    return value;
  }

  std::string read_bytes(std::uint64_t bytes);

  void skip(std::uint64_t bytes);
  /// Throws unless `count` items of at least `item_bytes` each can still follow. `what` names them: "strings".
  void expect_room(std::uint64_t count, std::uint64_t item_bytes, const char* what) const;

 private:
  void fill(std::size_t bytes);
  void expect_small(std::uint64_t bytes) const;

  const File& file_;
  std::uint64_t size_;
  std::uint64_t offset_;
  std::uint64_t buffer_begin_;  // the buffer holds the file's bytes [buffer_begin_, buffer_end_)
  std::uint64_t buffer_end_;    // >= offset_
  std::vector<std::byte> buffer_;
};

}  // namespace layerprobe::weights
