#include "base/file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

#include <cstdlib>
#include <cstring>
#include <memory>

#include "base/error.h"
#include "tests/support/temp_folder.h"

namespace layerprobe {

TEST_CASE("what is no regular file is refused, and a pipe is not waited for") {
  const test::TempFolder folder;
  const std::filesystem::path pipe = folder.path() / "pipe";
  REQUIRE(::mkfifo(pipe.c_str(), 0600) == 0);
  CHECK_THROWS_WITH_AS(read_text_file(pipe), doctest::Contains("pipe: is not a regular file"), Error);
  CHECK_THROWS_WITH_AS(read_text_file("/dev/zero"), doctest::Contains("/dev/zero: is not a regular file"), Error);
  CHECK_THROWS_WITH_AS(read_text_file(folder.path()), doctest::Contains("is a folder where a file is expected"), Error);
}

TEST_CASE("a text file over its limit is refused before memory is taken") {
  const test::TempFolder folder;
  const std::filesystem::path path = folder.write("config.json", "{}");
  std::filesystem::resize_file(path, 1'000'000'000'000);  // sparse
  CHECK_THROWS_WITH_AS(read_text_file(path),
                       doctest::Contains("config.json: is 1000000000000 bytes; at most 100000000 are read"), Error);
}

TEST_CASE("a file system in memory is told from a disk") {
  CHECK_FALSE(is_in_memory("/proc/self/status"));
  if (std::filesystem::exists("/dev/shm")) CHECK(is_in_memory("/dev/shm/not-there/yet.h5"));
}

TEST_CASE("a file is read past the page cache where its file system lets it") {
  constexpr std::size_t kBytes = 10'000, kAlignment = File::kDirectAlignment;
  for (const std::filesystem::path& parent : {std::filesystem::temp_directory_path(), test::memory_folder()}) {
    CAPTURE(parent.string());
    const test::TempFolder folder(parent);
    std::string contents;
    while (contents.size() < kBytes) contents.push_back(static_cast<char>(contents.size() % 251));
    const File file = File::open_for_reading(folder.write("values", contents));
    CHECK(file.is_cached(0));  // written just now
    const std::optional<File> direct = file.reopened_direct();
    if (!direct) continue;
    const std::unique_ptr<void, decltype(&std::free)> memory(std::aligned_alloc(kAlignment, 2 * kAlignment), std::free);
    const std::span room(static_cast<std::byte*>(memory.get()), 2 * kAlignment);
    const std::size_t got = direct->read_direct(kAlignment, room);
    if (got == 0) continue;
    CHECK(got == kBytes - kAlignment);
    CHECK(std::memcmp(room.data(), contents.data() + kAlignment, got) == 0);
    CHECK(direct->read_direct(3 * kAlignment, room) == 0);  // behind the end
  }
}

TEST_CASE("another file under its name is not read past the page cache in its place") {
  const test::TempFolder folder;
  const File file = File::open_for_reading(folder.write("values", "those that were opened"));
  std::filesystem::rename(folder / "values", folder / "values.old");
  folder.write("values", "others");
  CHECK_FALSE(file.reopened_direct().has_value());
}

}  // namespace layerprobe
