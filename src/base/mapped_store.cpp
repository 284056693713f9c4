#include <cstring>

#include "base/mapped_file.h"

namespace layerprobe {

void store_mapped(int, std::uint64_t, std::byte* to, std::span<const std::byte> bytes) {
  std::memcpy(to, bytes.data(), bytes.size());
}

}  // namespace layerprobe
