#include "base/file.h"

#include <doctest/doctest.h>
#include <sys/stat.h>

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

}  // namespace layerprobe
