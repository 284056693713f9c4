#include "base/mapped_file.h"

#include <sys/mman.h>

#include <algorithm>

#include "base/error.h"

namespace layerprobe {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kPieceBytes = std::size_t{512} << 10;  // what was just populated is still in the cache

}  // namespace

void MappedFile::Unmap::operator()(std::byte* bytes) const { ::munmap(bytes, size); }

std::optional<MappedFile> MappedFile::map(const File& file) {
  const std::uint64_t size = file.size();
  if (size == 0) return std::nullopt;
  void* const bytes = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, file.descriptor(), 0);
  if (bytes == MAP_FAILED) return std::nullopt;
  return MappedFile(file, static_cast<std::byte*>(bytes), size);
}

void MappedFile::store(std::uint64_t offset, std::span<const std::byte> bytes) const {
  const std::size_t size = bytes_.get_deleter().size;
  expect(offset <= size && bytes.size() <= size - offset, "a store lies in its mapping");
  while (!bytes.empty()) {
    const std::size_t count = std::min(bytes.size(), kPieceBytes - offset % kPieceBytes);
    std::byte* const to = bytes_.get() + offset;
    std::byte* const page = bytes_.get() + offset / kPage * kPage;
    // One call for all pages instead of a fault for each. A hint: before Linux 5.14 it is refused.
    ::madvise(page, static_cast<std::size_t>(to + count - page), MADV_POPULATE_WRITE);
    store_mapped(file_->descriptor(), offset, to, bytes.first(count));
    offset += count;
    bytes = bytes.subspan(count);
  }
}

}  // namespace layerprobe
