#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <string>

#include "base/handle.h"

namespace layerprobe {

int close_descriptor(int descriptor);

/// An open file, read and written at offsets. Reading and writing: any thread, at disjoint ranges.
///
/// Every call of the operating system that can lose a user's data goes through this file, so that tests can inject
/// faults in one place. All errors are Error(input) for reading, Error(resource) for writing, with the path as `where`.
class File {
 public:
  /// Throws Error(input), with a help line, when it is missing, a folder, or may not be read.
  static File open_for_reading(const std::filesystem::path& path);
  /// An existing file, for reading and writing.
  static File open_for_writing(const std::filesystem::path& path);
  /// A new file; throws when one of that name exists.
  static File create(const std::filesystem::path& path);
  /// For reading and writing, made when there is none of that name.
  static File open_or_create(const std::filesystem::path& path);
  /// The same file once more, past the page cache (O_DIRECT): for aligned writes. Nothing where that is refused.
  std::optional<File> open_direct() const;

  const std::filesystem::path& path() const { return path_; }
  int descriptor() const { return descriptor_.get(); }
  std::uint64_t size() const;
  /// Does it lie in memory (tmpfs)?
  bool is_in_memory() const;

  /// Fills `out` from `offset`; throws when the file ends before.
  void read_at(std::uint64_t offset, std::span<std::byte> out) const;
  /// Whether the byte at `offset` is in memory (in the page cache, or the file system has no disk), as far as the
  /// system says: "yes" where it does not.
  bool is_cached(std::uint64_t offset) const;
  /// The same file once more, read past the page cache by read_direct(); nothing where the file system refuses that.
  std::optional<File> reopened_direct() const;
  /// Of a file that was reopened_direct(): as many bytes from `offset` on as come in one go, 0 when the system refuses.
  /// Address, offset and size are multiples of kDirectAlignment; at the file's end less comes.
  std::size_t read_direct(std::uint64_t offset, std::span<std::byte> out) const;
  static constexpr std::size_t kDirectAlignment = 4096;  // no disk has larger blocks
  /// Writes all of `bytes`, however many system calls it takes.
  void write_at(std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// One system call: how many of `bytes` it wrote; nothing where it is refused as it is (EINVAL: not aligned, of a
  /// file past the page cache).
  std::optional<std::size_t> write_some_at(std::uint64_t offset, std::span<const std::byte> bytes) const;
  /// Makes sure that [offset, offset + size) has blocks on the disk, so that writing there cannot run out of space.
  void allocate(std::uint64_t offset, std::uint64_t size) const;
  /// Returns once all that was written is on the disk (fdatasync).
  void sync_data() const;
  /// Takes the lock that lets one writer at a time hold a file, until the file is closed; false when another holds it,
  /// or path() is no longer this file. Readers are not kept out. Where the file system has no locks, nobody is.
  bool try_lock() const;
  /// rename_durably to `path`; this stays open.
  void move_to(const std::filesystem::path& path);

 private:
  File(std::filesystem::path path, int descriptor);

  std::filesystem::path path_;
  Handle<int, close_descriptor, -1> descriptor_;
};

/// Throws Error(resource) when the file is there and cannot be removed.
void remove_file(const std::filesystem::path& path);

/// Replaces `to` with `from` in one step and syncs the folder, so that the new name outlives a power cut.
void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to);

/// Bytes that an ordinary user may still write on the file system that holds `path` (or its nearest existing folder).
std::uint64_t free_bytes(const std::filesystem::path& path);

/// Whether `path` (or its nearest existing folder) is on a file system in memory, as /dev/shm is.
bool is_in_memory(const std::filesystem::path& path);

/// The whole of a small file. Throws Error(input) when it is larger than `max_bytes`.
std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes = 100'000'000);

}  // namespace layerprobe
