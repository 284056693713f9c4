#include "device/cpu/memory.h"

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <string>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::device::cpu {

Buffer allocate_bytes(std::size_t bytes, std::size_t alignment) {
  const std::size_t rounded = (std::max<std::size_t>(bytes, 1) + alignment - 1) / alignment * alignment;
  void* data = rounded < bytes ? nullptr : std::aligned_alloc(alignment, rounded);
  if (data == nullptr) {
    throw Error({.kind = ErrorKind::resource,
                 .where = "cpu",
                 .what = text("not enough memory for ", bytes, " bytes"),
                 .fix = "lower --tokens-per-batch, or run fewer layers with --layers"});
  }
  return Buffer(data, bytes, std::free);
}

std::uint64_t available_bytes() {
  std::ifstream meminfo("/proc/meminfo");
  std::string name, unit;
  std::uint64_t kibibytes = 0;
  while (meminfo >> name >> kibibytes) {
    if (name == "MemAvailable:") return kibibytes * 1024;
    std::getline(meminfo, unit);
  }
  return std::numeric_limits<std::uint64_t>::max();
}

}  // namespace layerprobe::device::cpu
