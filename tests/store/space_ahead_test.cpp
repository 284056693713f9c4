#include "store/space_ahead.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <algorithm>
#include <string>
#include <vector>

#include "base/error.h"
#include "base/mapped_file.h"
#include "store/writer.h"
#include "tests/support/temp_folder.h"

namespace layerprobe {
namespace {

constexpr std::uint64_t kMiB = std::uint64_t{1} << 20;

/// Bytes that have their space.
std::uint64_t allocated(const std::filesystem::path& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return static_cast<std::uint64_t>(status.st_blocks) * 512;
}

store::SpaceAhead::Allocate allocating(const File& file) {
  return [&file](std::uint64_t offset, std::uint64_t bytes) { file.allocate(offset, bytes); };
}

/// 16 datasets of 64 MiB each.
store::Layout large_layout() {
  store::Layout layout;
  for (int i = 0; i < 16; ++i) {
    layout.points.push_back({.point = {.name = "point " + std::to_string(i), .dtype = Dtype::bf16, .width = 32768}});
  }
  layout.prompts.cu_seqlens = layout.rows.cu_rows = {0, 1024};
  layout.rows.position.resize(1024);
  return layout;
}

}  // namespace

TEST_CASE("what somebody waits for has its space, and in the end everything") {
  const test::TempFolder folder(test::memory_folder());
  const File file = File::create(folder / "a");
  std::filesystem::resize_file(folder / "a", 60 * kMiB);
  store::SpaceAhead space(allocating(file), {{.offset = 0, .bytes = 20 * kMiB, .row_bytes = 1},
                                             {.offset = 20 * kMiB, .bytes = 0, .row_bytes = 1},
                                             {.offset = 21 * kMiB, .bytes = 30 * kMiB, .row_bytes = 1000}});
  space.wait_for(1, 0);
  space.wait_for(2, 30 * kMiB);
  CHECK(allocated(folder / "a") >= 30 * kMiB);
  space.wait_for(0, 20 * kMiB);
  CHECK(allocated(folder / "a") >= 50 * kMiB);
  CHECK(allocated(folder / "a") <= 52 * kMiB);
  space.check();
  CHECK_THROWS_WITH_AS(space.wait_for(0, 20 * kMiB + 1), doctest::Contains("space is waited for"), Error);
}

TEST_CASE("a mapped file's space is that of its file, whatever pages it is made of") {
  const test::TempFolder folder(test::memory_folder());
  const File file = File::create(folder / "a");
  std::filesystem::resize_file(folder / "a", 7 * kMiB + 5);
  const auto mapping = MappedFile::map(file);
  REQUIRE(mapping);
  const std::vector<std::byte> bytes(3 * kMiB + 17, std::byte{7});
  mapping->allocate(1 * kMiB + 3, bytes.size());
  CHECK(allocated(folder / "a") >= 3 * kMiB);
  CHECK(allocated(folder / "a") <= 6 * kMiB);
  mapping->store(1 * kMiB + 3, bytes);
  mapping->allocate(0, 7 * kMiB + 5);  // what is there stays, the file's last pages are small ones
  CHECK(allocated(folder / "a") == 7 * kMiB + 4096);
  std::vector<std::byte> all(7 * kMiB + 5);
  file.read_at(0, all);
  CHECK(std::ranges::count(all, std::byte{7}) == static_cast<std::ptrdiff_t>(bytes.size()));
  CHECK(all[1 * kMiB + 3] == std::byte{7});
  CHECK_THROWS_WITH_AS(mapping->allocate(7 * kMiB, 6), doctest::Contains("space lies in its mapping"), Error);
}

TEST_CASE("space that is refused is told to who waits for it, and to all after") {
  const test::TempFolder folder(test::memory_folder());
  folder.write("a", "x");
  const File file = File::open_for_reading(folder / "a");  // refuses it
  store::SpaceAhead space(allocating(file), {{.offset = 0, .bytes = 5, .row_bytes = 1}});
  CHECK_THROWS_WITH_AS(space.wait_for(0, 5), doctest::Contains("space for it cannot be set aside"), Error);
  CHECK_THROWS_WITH_AS(space.check(), doctest::Contains("space for it cannot be set aside"), Error);
}

TEST_CASE("a writer in memory ends at once though most of its space is not set aside, and goes on from there") {
  const test::TempFolder folder(test::memory_folder());
  const store::Layout layout = large_layout();
  const std::uint64_t planned = store::planned_bytes(layout);
  if (!File::create(folder / "a").is_in_memory() || free_bytes(folder.path()) < planned) {
    MESSAGE("not tried here: it takes a tmpfs with " << planned << " bytes free");
    return;
  }
  { const store::Writer writer(folder / "a.h5", layout, store::Writer::IfExists::refuse); }
  CHECK(allocated(folder / "a.h5.partial") < planned / 2);
  store::Writer writer(folder / "a.h5", layout, store::Writer::IfExists::resume);
  const std::vector<std::byte> row(65536, std::byte{5});
  writer.write_rows(15, 1023, row);  // the last of all; the other datasets need not have their space first
  CHECK(allocated(folder / "a.h5.partial") < planned / 2);
  std::vector<std::byte> found(row.size());
  writer.read_rows(15, 1023, found);
  CHECK(found == row);
}

}  // namespace layerprobe
