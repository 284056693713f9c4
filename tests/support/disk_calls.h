#pragma once

// Sees every call by which this process changes a folder's files, libraries' calls too, and can make one fail. The
// functions of libc that make such calls are defined in disk_calls.cpp; the linker prefers a program's own. So is
// store_mapped (base/mapped_file.h), which changes a file without a call.

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace layerprobe::test {

struct DiskCall {
  enum class Kind {
    create,       // of `name`, empty
    write,        // `bytes` at `offset`
    store,        // the same, through a mapping
    resize,       // to `size`
    allocate,     // at least `size`, zeros where nothing was
    sync,         // of the file (fdatasync, fsync)
    sync_folder,  // of the folder: names
    rename,       // `name` to `new_name`
    remove,       // of `name`
  };
  Kind kind;
  int file = -1;  // the same for every name and descriptor of one file; those that were there first, by name, from 0;
                  // -1: the folder
  std::string name = {}, new_name = {};
  std::uint64_t offset = 0, size = 0;
  std::string bytes = {};
  bool is_direct = false;  // a write past the page cache

  bool has_bytes() const { return kind == Kind::write || kind == Kind::store; }
};

/// What the one call that is meant does instead.
struct DiskFault {
  std::size_t call = SIZE_MAX;  // counted among those to which it can be done
  int error = 0;  // errno (EINTR: of a call that can be interrupted; EINVAL: of a write past the page cache); 0: a
                  // write writes half of what it should
};

/// What all files seem to lie on, whatever they do lie on.
enum class Medium { memory, disk, disk_without_direct_writes };
void set_medium(Medium medium);

/// Watches a folder from here to its end. One at a time; any thread's calls count.
class DiskCalls {
 public:
  explicit DiskCalls(const std::filesystem::path& folder, DiskFault fault = {});
  ~DiskCalls();
  DiskCalls(const DiskCalls&) = delete;
  DiskCalls& operator=(const DiskCalls&) = delete;

  /// In the order they were made. Those that failed are not among them.
  const std::vector<DiskCall>& calls() const;
  /// Did the fault's moment come?
  bool has_failed() const;
};

}  // namespace layerprobe::test
