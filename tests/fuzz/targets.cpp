#include "tests/fuzz/targets.h"

#include <unistd.h>

#include <cstdlib>
#include <stdexcept>
#include <string>

#include "base/error.h"
#include "tests/support/temp_folder.h"

namespace layerprobe::fuzz {

MemoryFile::MemoryFile(std::string_view bytes) {
  std::string name = (test::memory_folder() / "layerprobe-XXXXXX").string();
  const int descriptor = ::mkstemp(name.data());
  if (descriptor < 0) throw std::runtime_error("no file in memory");
  path_ = name;
  while (!bytes.empty()) {
    const ssize_t put = ::write(descriptor, bytes.data(), bytes.size());
    if (put <= 0) throw std::runtime_error("no room for a file in memory");
    bytes.remove_prefix(static_cast<std::size_t>(put));
  }
  ::close(descriptor);
}

MemoryFile::~MemoryFile() { ::unlink(path_.c_str()); }

void expect_answer(const std::function<void()>& read) {
  try {
    read();
  } catch (const Error& error) {
    if (error.kind() != ErrorKind::input && error.kind() != ErrorKind::usage) throw;
  }
}

}  // namespace layerprobe::fuzz
