#include "device/cuda/pinned_pages.h"

#include <cuda_runtime_api.h>
#include <sys/mman.h>

#include <cstdint>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device::cuda {
namespace {

constexpr std::size_t kPageBytes = 4096;  // the smallest there is on the processors we run on
constexpr std::size_t kHugePageBytes = std::size_t{2} << 20;

[[noreturn]] void refuse(std::size_t bytes, const std::string& why) {
  throw Error({.kind = ErrorKind::resource,
               .where = "pinned memory",
               .what = text(bytes_text(bytes), " of the host's memory cannot be had: ", why),
               .fix = "end other programs, or raise the memory limit of this one (cgroup, ulimit -l)"});
}

}  // namespace

PinnedPages::PinnedPages(std::size_t bytes) : mapping_bytes_(bytes + kHugePageBytes) {
  mapping_ = ::mmap(nullptr, mapping_bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (mapping_ == MAP_FAILED) refuse(bytes, "the system refuses it");
  ::madvise(mapping_, mapping_bytes_, MADV_HUGEPAGE);  // registering walks every page
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(mapping_);
  data_ = static_cast<std::byte*>(mapping_) + (kHugePageBytes - begin % kHugePageBytes) % kHugePageBytes;
  // Here and not within cudaHostRegister, which one thread at a time goes through.
  for (std::size_t at = 0; at < bytes; at += kPageBytes) static_cast<volatile std::byte*>(data_)[at] = std::byte{0};
  const cudaError_t status = cudaHostRegister(data_, bytes, cudaHostRegisterPortable);
  if (status == cudaSuccess) return;
  cudaGetLastError();  // the runtime keeps it, and would give it to the next launch
  ::munmap(mapping_, mapping_bytes_);
  refuse(bytes, cudaGetErrorString(status));
}

PinnedPages::~PinnedPages() {
  cudaHostUnregister(data_);
  ::munmap(mapping_, mapping_bytes_);
}

}  // namespace layerprobe::device::cuda
