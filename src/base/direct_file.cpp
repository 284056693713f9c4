#include "base/direct_file.h"

#include <fcntl.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "base/error.h"
#include "base/handle.h"

namespace layerprobe {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kDirectFrom = std::size_t{64} << 10;  // bytes; less is gathered by the page cache
constexpr std::size_t kCopyBytes = std::size_t{4} << 20;

using Memory = Handle<void*, std::free, nullptr>;

}  // namespace

DirectFile::DirectFile(const File& file)
    : file_(file),
      direct_(file.open_direct()),
      memory_alignment_(kPage),
      block_bytes_(kPage),
      works_(direct_.has_value()) {
  if (!direct_) return;
  struct statx status {};
  const bool is_known = ::statx(direct_->descriptor(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &status) == 0 &&
                        (status.stx_mask & STATX_DIOALIGN) != 0;  // Linux 6.1, and not of every file system
  if (is_known && status.stx_dio_mem_align != 0 && status.stx_dio_offset_align != 0) {
    memory_alignment_ = status.stx_dio_mem_align;
    block_bytes_ = std::max<std::size_t>(kPage, status.stx_dio_offset_align);  // two ways never meet in a page
  }
  ::posix_fadvise(file.descriptor(), 0, 0, POSIX_FADV_RANDOM);  // reads no pages that others write directly
}

void DirectFile::write_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  const std::uint64_t end = offset + bytes.size();
  const std::uint64_t begin_blocks = (offset + block_bytes_ - 1) / block_bytes_ * block_bytes_;
  const std::uint64_t end_blocks = end / block_bytes_ * block_bytes_;
  if (!works_ || end_blocks < begin_blocks + kDirectFrom) return file_.write_at(offset, bytes);
  const std::size_t head = begin_blocks - offset;
  file_.write_at(offset, bytes.first(head));
  const std::size_t done = head + write_blocks_at(begin_blocks, bytes.subspan(head, end_blocks - begin_blocks));
  file_.write_at(offset + done, bytes.subspan(done));
}

std::size_t DirectFile::write_blocks_at(std::uint64_t offset, std::span<const std::byte> bytes) {
  const bool is_aligned = reinterpret_cast<std::uintptr_t>(bytes.data()) % memory_alignment_ == 0;
  const std::size_t copy_bytes = std::min(bytes.size(), std::max(kCopyBytes, block_bytes_));
  const Memory copy(is_aligned ? nullptr : std::aligned_alloc(std::max(kPage, memory_alignment_), copy_bytes));
  std::size_t done = 0;
  while (done < bytes.size()) {
    std::span<const std::byte> piece = bytes.subspan(done);
    if (!is_aligned) {
      if (copy.get() == nullptr) return done;  // no memory for it
      piece = piece.first(std::min(piece.size(), copy_bytes));
      std::memcpy(copy.get(), piece.data(), piece.size());
      piece = {static_cast<const std::byte*>(copy.get()), piece.size()};
    }
    const std::optional<std::size_t> put = direct_->write_some_at(offset + done, piece);
    if (!put) works_ = false;
    done += put.value_or(0) / block_bytes_ * block_bytes_;
    if (!put || *put % block_bytes_ != 0) return done;  // cut short within a block, where no other call may begin
  }
  return done;
}

}  // namespace layerprobe
