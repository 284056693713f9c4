#include "tests/support/disk_calls.h"

#include <fcntl.h>
#include <linux/magic.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <cstdarg>
#include <cstring>
#include <map>
#include <mutex>
#include <optional>
#include <set>

#include "base/mapped_file.h"

namespace layerprobe::test {
namespace {

using Kind = DiskCall::Kind;

struct Watched {
  std::string folder;
  DiskFault fault;
  std::size_t calls_to_fail = 0;  // so far, of those to which the fault can be done
  bool has_failed = false;
  std::vector<DiskCall> calls;
  std::map<std::string, int> files;  // by name
  std::map<int, int> descriptors;    // to files; -1: the folder
  std::set<int> direct;              // descriptors
  int num_files = 0;

  int file_of(const std::string& name) {
    const auto [at, is_new] = files.try_emplace(name, num_files);
    num_files += is_new ? 1 : 0;
    return at->second;
  }
};

std::mutex mutex;
std::optional<Watched> watched;
std::atomic<Medium> medium = Medium::memory;

/// The name in the watched folder; nothing for any other path. "." is the folder itself.
std::optional<std::string> name_of(const char* path) {
  const std::filesystem::path whole = std::filesystem::path(path).lexically_normal();
  if (whole == watched->folder) return ".";
  if (whole.parent_path() != watched->folder) return std::nullopt;
  return whole.filename().string();
}

bool can_be_done(int error, const DiskCall& call) {
  if (error == 0) return call.kind == Kind::write;
  if (error == EINVAL) return call.is_direct;
  if (error != EINTR) return call.kind != Kind::store;
  return call.kind == Kind::write || call.kind == Kind::allocate || call.kind == Kind::sync ||
         call.kind == Kind::sync_folder;
}

/// Makes a call of the watched folder, or fails in its place. `make` returns -1 and errno, or what the call returned;
/// a fault of error 0 lets it go on and sets `half`.
template <typename Make>
long observe(DiskCall call, const Make& make, bool* half = nullptr) {
  if (can_be_done(watched->fault.error, call) && watched->calls_to_fail++ == watched->fault.call) {
    watched->has_failed = true;
    if (watched->fault.error != 0) {
      errno = watched->fault.error;
      return -1;
    }
    if (half != nullptr) *half = true;
  }
  const long result = make();
  if (result >= 0) {
    if (half != nullptr && *half) call.bytes.resize(static_cast<std::size_t>(result));
    watched->calls.push_back(std::move(call));
  }
  return result;
}

int open_watched(const char* path, int flags, mode_t mode) {
  const bool is_direct = (flags & O_DIRECT) != 0;
  if (is_direct && medium == Medium::disk_without_direct_writes) {
    errno = EINVAL;
    return -1;
  }
  flags &= ~O_DIRECT;  // what the test's files do lie on may know none
  const auto make = [&] { return ::syscall(SYS_openat, AT_FDCWD, path, flags, mode); };
  const std::lock_guard lock(mutex);
  const auto name = watched ? name_of(path) : std::nullopt;
  if (!name) return static_cast<int>(make());
  if (*name == ".") {
    const int descriptor = static_cast<int>(make());
    if (descriptor >= 0) watched->descriptors[descriptor] = -1;
    return descriptor;
  }
  const bool exists = ::faccessat(AT_FDCWD, path, F_OK, 0) == 0;
  long descriptor = -1;
  if (!exists && (flags & O_CREAT) != 0) {
    watched->files.erase(*name);
    descriptor = observe({.kind = Kind::create, .file = watched->num_files, .name = *name}, make);
  } else if (exists && (flags & O_TRUNC) != 0) {
    descriptor = observe({.kind = Kind::resize, .file = watched->file_of(*name)}, make);
  } else {
    descriptor = make();
  }
  if (descriptor >= 0) watched->descriptors[static_cast<int>(descriptor)] = watched->file_of(*name);
  if (descriptor >= 0 && is_direct) watched->direct.insert(static_cast<int>(descriptor));
  return static_cast<int>(descriptor);
}

/// The file of a watched descriptor.
std::optional<int> file_of(int descriptor) {
  if (!watched) return std::nullopt;
  const auto at = watched->descriptors.find(descriptor);
  if (at == watched->descriptors.end()) return std::nullopt;
  return at->second;
}

ssize_t write_watched(int descriptor, const void* data, std::size_t size, off_t offset) {
  const auto make = [&](std::size_t bytes) { return ::syscall(SYS_pwrite64, descriptor, data, bytes, offset); };
  const std::lock_guard lock(mutex);
  const auto file = file_of(descriptor);
  if (!file) return make(size);
  bool half = false;
  return observe(
      {.kind = Kind::write,
       .file = *file,
       .offset = static_cast<std::uint64_t>(offset),
       .bytes = std::string(static_cast<const char*>(data), size),
       .is_direct = watched->direct.contains(descriptor)},
      [&] { return make(half && size > 1 ? size / 2 : size); }, &half);
}

int sync_watched(int descriptor, long number) {
  const auto make = [&] { return ::syscall(number, descriptor); };
  const std::lock_guard lock(mutex);
  const auto file = file_of(descriptor);
  if (!file) return static_cast<int>(make());
  return static_cast<int>(observe({.kind = *file < 0 ? Kind::sync_folder : Kind::sync, .file = *file}, make));
}

int resize_watched(int descriptor, off_t size) {
  const auto make = [&] { return ::syscall(SYS_ftruncate, descriptor, size); };
  const std::lock_guard lock(mutex);
  const auto file = file_of(descriptor);
  if (!file) return static_cast<int>(make());
  return static_cast<int>(
      observe({.kind = Kind::resize, .file = *file, .size = static_cast<std::uint64_t>(size)}, make));
}

/// Returns the error, as posix_fallocate does.
int allocate_watched(int descriptor, off_t offset, off_t size) {
  const auto make = [&] { return ::syscall(SYS_fallocate, descriptor, 0, offset, size); };
  const std::lock_guard lock(mutex);
  const auto file = file_of(descriptor);
  const long result =
      file ? observe({.kind = Kind::allocate, .file = *file, .size = static_cast<std::uint64_t>(offset + size)}, make)
           : make();
  return result < 0 ? errno : 0;
}

int rename_watched(const char* from, const char* to) {
  const auto make = [&] { return ::syscall(SYS_rename, from, to); };
  const std::lock_guard lock(mutex);
  const auto name = watched ? name_of(from) : std::nullopt;
  const auto new_name = watched ? name_of(to) : std::nullopt;
  if (!name || !new_name) return static_cast<int>(make());
  const int file = watched->file_of(*name);
  const long result = observe({.kind = Kind::rename, .file = file, .name = *name, .new_name = *new_name}, make);
  if (result < 0) return -1;
  watched->files.erase(*name);
  watched->files[*new_name] = file;
  return 0;
}

int remove_watched(const char* path) {
  const auto make = [&] {
    const long result = ::syscall(SYS_unlink, path);
    return result < 0 && errno == EISDIR ? ::syscall(SYS_rmdir, path) : result;
  };
  const std::lock_guard lock(mutex);
  const auto name = watched ? name_of(path) : std::nullopt;
  if (!name || *name == ".") return static_cast<int>(make());
  const long result = observe({.kind = Kind::remove, .file = watched->file_of(*name), .name = *name}, make);
  if (result == 0) watched->files.erase(*name);
  return static_cast<int>(result);
}

int close_watched(int descriptor) {
  const std::lock_guard lock(mutex);
  if (watched) watched->descriptors.erase(descriptor);
  if (watched) watched->direct.erase(descriptor);
  return static_cast<int>(::syscall(SYS_close, descriptor));
}

int tell_medium(int descriptor, struct statfs* status) {
  const long result = ::syscall(SYS_fstatfs, descriptor, status);
  status->f_type = medium == Medium::memory ? TMPFS_MAGIC : EXT4_SUPER_MAGIC;
  return static_cast<int>(result);
}

}  // namespace

void set_medium(Medium seeming) { medium = seeming; }

DiskCalls::DiskCalls(const std::filesystem::path& folder, DiskFault fault) {
  const std::lock_guard lock(mutex);
  watched.emplace();
  watched->folder = folder.lexically_normal().string();
  watched->fault = fault;
  std::set<std::string> names;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) names.insert(entry.path().filename().string());
  for (const std::string& name : names) watched->file_of(name);
}

DiskCalls::~DiskCalls() {
  const std::lock_guard lock(mutex);
  watched.reset();
}

const std::vector<DiskCall>& DiskCalls::calls() const { return watched->calls; }
bool DiskCalls::has_failed() const { return watched->has_failed; }

}  // namespace layerprobe::test

using namespace layerprobe::test;

void layerprobe::store_mapped(int descriptor, std::uint64_t offset, std::byte* to, std::span<const std::byte> bytes) {
  const auto make = [&] {
    std::memcpy(to, bytes.data(), bytes.size());
    return 0L;
  };
  const std::lock_guard lock(mutex);
  const auto file = file_of(descriptor);
  if (!file) {
    make();
    return;
  }
  observe({.kind = Kind::store,
           .file = *file,
           .offset = offset,
           .bytes = std::string(reinterpret_cast<const char*>(bytes.data()), bytes.size())},
          make);
}

// libc's own names, in the two spellings that programs are linked to.
extern "C" {

int open(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open_watched(path, flags, mode);
}
int open64(const char* path, int flags, ...) {
  std::va_list arguments;
  va_start(arguments, flags);
  const mode_t mode = (flags & (O_CREAT | O_TMPFILE)) != 0 ? va_arg(arguments, mode_t) : 0;
  va_end(arguments);
  return open_watched(path, flags, mode);
}
int close(int descriptor) { return close_watched(descriptor); }

ssize_t pwrite(int descriptor, const void* data, size_t size, off_t offset) {
  return write_watched(descriptor, data, size, offset);
}
ssize_t pwrite64(int descriptor, const void* data, size_t size, off64_t offset) {
  return write_watched(descriptor, data, size, offset);
}

int fsync(int descriptor) { return sync_watched(descriptor, SYS_fsync); }
int fdatasync(int descriptor) { return sync_watched(descriptor, SYS_fdatasync); }

int ftruncate(int descriptor, off_t size) noexcept { return resize_watched(descriptor, size); }
int ftruncate64(int descriptor, off64_t size) noexcept { return resize_watched(descriptor, size); }
int posix_fallocate(int descriptor, off_t offset, off_t size) { return allocate_watched(descriptor, offset, size); }
int posix_fallocate64(int descriptor, off64_t offset, off64_t size) {
  return allocate_watched(descriptor, offset, size);
}

int fstatfs(int descriptor, struct statfs* status) noexcept { return tell_medium(descriptor, status); }

int rename(const char* from, const char* to) noexcept { return rename_watched(from, to); }
int unlink(const char* path) noexcept { return remove_watched(path); }
int remove(const char* path) noexcept { return remove_watched(path); }

}  // extern "C"
