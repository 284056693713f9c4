#include "base/mapped_file.h"

#include <sys/mman.h>

#include <algorithm>
#include <cstdint>

#include "base/error.h"

namespace layerprobe {
namespace {

constexpr std::size_t kPage = 4096;
constexpr std::size_t kHugePage = std::size_t{2} << 20;
constexpr int kCollapse = 25;                                // MADV_COLLAPSE, which older headers lack
constexpr std::size_t kPieceBytes = std::size_t{512} << 10;  // what was just populated is still in the cache

}  // namespace

void MappedFile::Unmap::operator()(std::byte* bytes) const { ::munmap(bytes, size_); }

MappedFile::MappedFile(const File& file, void* addresses, std::size_t num_addresses)
    : file_(&file),
      size_(file.size()),
      addresses_(static_cast<std::byte*>(addresses), Unmap(num_addresses)),
      bytes_(addresses_.get() + (kHugePage - reinterpret_cast<std::uintptr_t>(addresses) % kHugePage)) {}

std::optional<MappedFile> MappedFile::map(const File& file) {
  const std::size_t size = file.size();
  if (size == 0) return std::nullopt;
  // Huge pages of a file have to be so in memory too, so the place is chosen among addresses that are set aside first.
  void* const addresses =
      ::mmap(nullptr, size + kHugePage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (addresses == MAP_FAILED) return std::nullopt;
  MappedFile mapped(file, addresses, size + kHugePage);
  if (::mmap(mapped.bytes_, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file.descriptor(), 0) == MAP_FAILED) {
    return std::nullopt;
  }
  return mapped;
}

void MappedFile::allocate(std::uint64_t offset, std::uint64_t size) const {
  expect(offset <= size_ && size <= size_ - offset, "space lies in its mapping");
  const std::uint64_t begin = offset / kHugePage * kHugePage;
  const std::uint64_t end = std::min<std::uint64_t>((offset + size + kHugePage - 1) / kHugePage, size_ / kHugePage) *
                            kHugePage;  // pages that are whole in the file
  if (begin < end) {
    // Hints. A huge page is made around a small one, which is asked for in a way that fails instead of a SIGBUS.
    for (std::uint64_t page = begin; page < end; page += kHugePage)
      ::madvise(bytes_ + page, kPage, MADV_POPULATE_WRITE);
    ::madvise(bytes_ + begin, end - begin, kCollapse);
  }
  file_->allocate(offset, size);  // what is missing still; says what is wrong
}

void MappedFile::store(std::uint64_t offset, std::span<const std::byte> bytes) const {
  expect(offset <= size_ && bytes.size() <= size_ - offset, "a store lies in its mapping");
  while (!bytes.empty()) {
    const std::size_t count = std::min(bytes.size(), kPieceBytes - offset % kPieceBytes);
    std::byte* const to = bytes_ + offset;
    std::byte* const page = bytes_ + offset / kPage * kPage;
    // One call for all pages instead of a fault for each. A hint: before Linux 5.14 it is refused.
    ::madvise(page, static_cast<std::size_t>(to + count - page), MADV_POPULATE_WRITE);
    store_mapped(file_->descriptor(), offset, to, bytes.first(count));
    offset += count;
    bytes = bytes.subspan(count);
  }
}

}  // namespace layerprobe
