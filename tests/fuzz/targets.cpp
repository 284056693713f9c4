#include "tests/fuzz/targets.h"

#include <sys/mman.h>
#include <unistd.h>

#include <stdexcept>
#include <string>

#include "base/error.h"

namespace layerprobe::fuzz {

MemoryFile::MemoryFile(std::string_view bytes) : descriptor_(::memfd_create("layerprobe-fuzz", MFD_CLOEXEC)) {
  if (descriptor_ < 0) throw std::runtime_error("no file in memory");
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor_, bytes.data(), bytes.size());
    if (put <= 0) throw std::runtime_error("no room for a file in memory");
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
}

MemoryFile::~MemoryFile() { ::close(descriptor_); }

std::filesystem::path MemoryFile::path() const { return "/proc/self/fd/" + std::to_string(descriptor_); }

void expect_answer(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input && error.kind() != ErrorKind::usage) throw;
  }
}

}  // namespace layerprobe::fuzz
