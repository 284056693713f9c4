#include "base/direct_file.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <cstdlib>
#include <vector>

#include "base/handle.h"
#include "tests/support/temp_folder.h"

namespace layerprobe {

TEST_CASE("ranges that begin and end anywhere are written and read back, whatever the cache held of them") {
  constexpr std::size_t kFileBytes = std::size_t{4} << 20, kMemoryBytes = std::size_t{2} << 20;
  const Handle<void*, std::free, nullptr> memory(std::aligned_alloc(4096, kMemoryBytes));
  auto* const bytes = static_cast<std::byte*>(memory.get());
  for (const auto& parent : {std::filesystem::temp_directory_path(), test::memory_folder()}) {
    CAPTURE(parent.string());
    const test::TempFolder folder(parent);
    const File file = File::create(folder / "a");
    file.allocate(0, kFileBytes);
    DirectFile direct(file);
    std::vector<std::byte> expected(kFileBytes), found(kFileBytes);
    int value = 0;
    for (const std::size_t offset : {0, 4096, 1, 4095, 100000}) {
      for (const std::size_t size : {0, 1, 4096, 81920, 81921, 1000000, 2000000}) {
        for (const std::size_t start : {0, 4, 512, 3}) {  // in memory
          CAPTURE(offset);
          CAPTURE(size);
          CAPTURE(start);
          ++value;
          for (std::size_t i = 0; i < size; ++i) bytes[start + i] = static_cast<std::byte>((i >> 9) + i + value);
          direct.write_at(offset, {bytes + start, size});
          std::copy_n(bytes + start, size, expected.begin() + static_cast<std::ptrdiff_t>(offset));
          file.read_at(0, found);  // and so all of it is in the cache for the next
          REQUIRE(found == expected);
        }
      }
    }
  }
}

}  // namespace layerprobe
