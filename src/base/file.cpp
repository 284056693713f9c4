#include "base/file.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/statfs.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe {
namespace {

constexpr std::size_t kMaxCallBytes = std::size_t{1} << 30;  // Linux moves at most 2 GiB - 4 KiB a call

Error write_error(const std::filesystem::path& path, const char* doing, int code) {
  const bool full = code == ENOSPC || code == EDQUOT;
  return Error({.kind = ErrorKind::resource,
                .where = path.string(),
                .what = text(doing, ": ", std::strerror(code)),
                .fix = full ? "make space on that disk, then run the same command with --resume"
                            : "check the disk and the folder's permissions, or choose another --output"});
}

Error read_error(const std::filesystem::path& path, std::string what, const char* fix) {
  return Error({.kind = ErrorKind::input, .where = path.string(), .what = std::move(what), .fix = fix});
}

int open_descriptor(const std::filesystem::path& path, int flags) {
  int descriptor = -1;
  do {
    descriptor = ::open(path.c_str(), flags | O_CLOEXEC, 0644);
  } while (descriptor < 0 && errno == EINTR);
  return descriptor;
}

/// False, and errno, when it failed.
bool synced(int (*sync)(int), int descriptor) {
  while (sync(descriptor) != 0) {
    if (errno != EINTR) return false;
  }
  return true;
}

}  // namespace

int close_descriptor(int descriptor) { return ::close(descriptor); }

File::File(std::filesystem::path path, int descriptor) : path_(std::move(path)), descriptor_(descriptor) {}

File File::open_for_reading(const std::filesystem::path& path) {
  const int descriptor = open_descriptor(path, O_RDONLY | O_NONBLOCK);  // a pipe is refused below, not waited for
  if (descriptor < 0) {
    const int code = errno;
    if (code == ENOENT) throw read_error(path, "no such file", "check the path");
    throw read_error(path, text("cannot be opened: ", std::strerror(code)),
                     code == EMFILE || code == ENFILE ? "raise the limit, as with: ulimit -n 65536"
                                                      : "check the file's permissions");
  }
  File file(path, descriptor);
  struct stat status {};
  if (::fstat(descriptor, &status) != 0 || !S_ISREG(status.st_mode)) {
    throw read_error(path, S_ISDIR(status.st_mode) ? "is a folder where a file is expected" : "is not a regular file",
                     "name a regular file");
  }
  return file;
}

File File::open_for_writing(const std::filesystem::path& path) {
  const int descriptor = open_descriptor(path, O_RDWR);
  if (descriptor < 0) throw write_error(path, "cannot be opened for writing", errno);
  return File(path, descriptor);
}

File File::create(const std::filesystem::path& path) {
  const int descriptor = open_descriptor(path, O_RDWR | O_CREAT | O_EXCL);
  if (descriptor < 0) throw write_error(path, "cannot be created", errno);
  return File(path, descriptor);
}

File File::open_or_create(const std::filesystem::path& path) {
  const int descriptor = open_descriptor(path, O_RDWR | O_CREAT);
  if (descriptor < 0) throw write_error(path, "cannot be created", errno);
  return File(path, descriptor);
}

std::optional<File> File::open_direct() const {
  const int descriptor = open_descriptor(path_, O_RDWR | O_DIRECT);
  if (descriptor < 0) return std::nullopt;
  return File(path_, descriptor);
}

std::uint64_t File::size() const {
  struct stat status {};
  if (::fstat(descriptor(), &status) != 0) {
    throw read_error(path_, text("its size cannot be read: ", std::strerror(errno)), "check the disk");
  }
  return static_cast<std::uint64_t>(status.st_size);
}

bool File::is_in_memory() const {
  struct statfs status {};
  return ::fstatfs(descriptor(), &status) == 0 && status.f_type == TMPFS_MAGIC;
}

void File::read_at(std::uint64_t offset, std::span<std::byte> out) const {
  while (!out.empty()) {
    const ssize_t got =
        ::pread(descriptor(), out.data(), std::min(out.size(), kMaxCallBytes), static_cast<off_t>(offset));
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) throw read_error(path_, text("reading failed: ", std::strerror(errno)), "check the disk");
    if (got == 0) {
      throw read_error(path_, text("ends at byte ", offset, " where ", out.size(), " more are expected"),
                       "the file was cut off; fetch it again");
    }
    offset += static_cast<std::uint64_t>(got);
    out = out.subspan(static_cast<std::size_t>(got));
  }
}

bool File::is_cached(std::uint64_t offset) const {
  std::byte byte{};
  const iovec where = {&byte, 1};
  return ::preadv2(descriptor(), &where, 1, static_cast<off_t>(offset), RWF_NOWAIT) >= 0 || errno != EAGAIN;
}

std::optional<File> File::reopened_direct() const {
  File file(path_, open_descriptor(path_, O_RDONLY | O_DIRECT | O_NONBLOCK));
  struct stat here {
  }, there{};  // another file may have taken the name
  if (file.descriptor() < 0 || ::fstat(descriptor(), &here) != 0 || ::fstat(file.descriptor(), &there) != 0 ||
      here.st_dev != there.st_dev || here.st_ino != there.st_ino) {
    return std::nullopt;
  }
  return file;
}

std::size_t File::read_direct(std::uint64_t offset, std::span<std::byte> out) const {
  const ssize_t got = ::pread(descriptor(), out.data(), out.size(), static_cast<off_t>(offset));
  return got > 0 ? static_cast<std::size_t>(got) : 0;
}

void File::write_at(std::uint64_t offset, std::span<const std::byte> bytes) const {
  while (!bytes.empty()) {
    const std::optional<std::size_t> put = write_some_at(offset, bytes);
    if (!put) throw write_error(path_, "writing failed", EINVAL);
    offset += *put;
    bytes = bytes.subspan(*put);
  }
}

std::optional<std::size_t> File::write_some_at(std::uint64_t offset, std::span<const std::byte> bytes) const {
  ssize_t put = -1;
  do {
    put = ::pwrite(descriptor(), bytes.data(), std::min(bytes.size(), kMaxCallBytes), static_cast<off_t>(offset));
  } while (put < 0 && errno == EINTR);
  if (put < 0 && errno == EINVAL) return std::nullopt;
  if (put <= 0) throw write_error(path_, "writing failed", put == 0 ? EIO : errno);
  return static_cast<std::size_t>(put);
}

void File::allocate(std::uint64_t offset, std::uint64_t size) const {
  if (size == 0) return;
  int code = 0;
  do {  // falls back to writing zeros where the file system cannot allocate
    code = ::posix_fallocate(descriptor(), static_cast<off_t>(offset), static_cast<off_t>(size));
  } while (code == EINTR);
  if (code != 0) throw write_error(path_, "space for it cannot be set aside", code);
}

void File::sync_data() const {
  if (!synced(::fdatasync, descriptor())) throw write_error(path_, "syncing it to the disk failed", errno);
}

bool File::try_lock() const {
  // Of the open file description: not lost when another descriptor of this process closes, and not seen by flock(),
  // which HDF5 readers use.
  struct flock whole {};
  whole.l_type = F_WRLCK;
  whole.l_whence = SEEK_SET;
  if (::fcntl(descriptor(), F_OFD_SETLK, &whole) != 0 && (errno == EAGAIN || errno == EACCES)) return false;
  struct stat held {
  }, named{};  // the one that had the lock may have renamed the file between open and here
  return ::fstat(descriptor(), &held) == 0 && ::stat(path_.c_str(), &named) == 0 && held.st_dev == named.st_dev &&
         held.st_ino == named.st_ino;
}

void File::move_to(const std::filesystem::path& path) {
  rename_durably(path_, path);
  path_ = path;
}

void remove_file(const std::filesystem::path& path) {
  if (::unlink(path.c_str()) != 0 && errno != ENOENT) throw write_error(path, "cannot be removed", errno);
}

void rename_durably(const std::filesystem::path& from, const std::filesystem::path& to) {
  if (::rename(from.c_str(), to.c_str()) != 0) throw write_error(from, "cannot be given its final name", errno);
  const std::filesystem::path folder = to.has_parent_path() ? to.parent_path() : std::filesystem::path(".");
  const Handle<int, close_descriptor, -1> handle(open_descriptor(folder, O_RDONLY | O_DIRECTORY));
  if (handle.get() < 0 || !synced(::fsync, handle.get())) throw write_error(folder, "syncing the folder failed", errno);
}

std::uint64_t free_bytes(const std::filesystem::path& path) {
  std::filesystem::path folder = std::filesystem::absolute(path);
  struct statvfs status {};
  while (::statvfs(folder.c_str(), &status) != 0) {
    if (folder == folder.parent_path()) {
      throw write_error(path, "its disk's free space cannot be read", errno);
    }
    folder = folder.parent_path();
  }
  return static_cast<std::uint64_t>(status.f_bavail) * status.f_frsize;
}

bool is_in_memory(const std::filesystem::path& path) {
  std::filesystem::path folder = std::filesystem::absolute(path);
  struct statfs status {};
  while (::statfs(folder.c_str(), &status) != 0) {
    if (folder == folder.parent_path()) return false;
    folder = folder.parent_path();
  }
  return status.f_type == TMPFS_MAGIC || status.f_type == RAMFS_MAGIC;
}

std::string read_text_file(const std::filesystem::path& path, std::uint64_t max_bytes) {
  const File file = File::open_for_reading(path);
  const std::uint64_t size = file.size();
  if (size > max_bytes) {
    throw read_error(path, text("is ", size, " bytes; at most ", max_bytes, " are read"), "name another file");
  }
  std::string contents(size, '\0');
  file.read_at(0, std::as_writable_bytes(std::span(contents)));
  return contents;
}

}  // namespace layerprobe
