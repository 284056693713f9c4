#include "weights/gguf_files.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/support/model_files.h"

namespace layerprobe::weights {
namespace {

using test::GgufBuilder;

/// Part `number` (from 0) of `count`, with one tensor of that name.
std::string part(std::uint16_t number, std::uint16_t count, const std::string& tensor, std::int32_t all_tensors = 2) {
  return GgufBuilder()
      .value("split.no", 2, test::raw(number))
      .value("split.count", 2, test::raw(count))
      .value("split.tensors.count", 5, test::raw(all_tensors))
      .tensor(tensor, {1}, 0, "abcd")
      .bytes();
}

}  // namespace

TEST_CASE("all parts of a split GGUF are opened from the first") {
  const test::TempFolder folder;
  const auto first = folder.write("m-00001-of-00002.gguf", part(0, 2, "a"));
  folder.write("m-00002-of-00002.gguf", part(1, 2, "b"));
  const GgufFiles opened = open_gguf_files(first);
  REQUIRE(opened.tensors.size() == 2);
  CHECK(opened.tensors[1].name == "b");
  CHECK(opened.tensors[1].file == 1);
  CHECK(opened.files[1].path().filename() == "m-00002-of-00002.gguf");
}

TEST_CASE("a part that is missing is named") {
  const test::TempFolder folder;
  const auto first = folder.write("m-00001-of-00002.gguf", part(0, 2, "a"));
  CHECK_THROWS_WITH_AS(open_gguf_files(first), doctest::Contains("m-00002-of-00002.gguf: is missing: part 2 of 2"),
                       Error);
}

TEST_CASE("the second part alone names the first") {
  const test::TempFolder folder;
  const auto second = folder.write("m-00002-of-00002.gguf", part(1, 2, "b"));
  CHECK_THROWS_WITH_AS(open_gguf_files(second),
                       doctest::Contains("is part 2 of 2\n  help: name the first: m-00001-of-00002.gguf"), Error);
}

TEST_CASE("parts of another split, renamed parts and parts that lack tensors are refused") {
  const test::TempFolder folder;
  const auto first = folder.write("m-00001-of-00002.gguf", part(0, 2, "a", 3));
  folder.write("m-00002-of-00002.gguf", part(1, 2, "b"));
  CHECK_THROWS_WITH_AS(open_gguf_files(first), doctest::Contains("says that all parts hold 3 tensors; they hold 2"),
                       Error);
  folder.write("m-00002-of-00002.gguf", part(2, 3, "b"));
  CHECK_THROWS_WITH_AS(open_gguf_files(first), doctest::Contains("says it is part 3 of 3; its name says 2 of 2"),
                       Error);
  CHECK_THROWS_WITH_AS(open_gguf_files(folder.write("m.gguf", part(0, 2, "a"))),
                       doctest::Contains("says it is part 1 of 2, but is not named so"), Error);
}

TEST_CASE("a split count that is no count is refused") {
  const test::TempFolder folder;
  const auto path = folder.write("m.gguf", GgufBuilder().text("split.count", "two").bytes());
  CHECK_THROWS_WITH_AS(open_gguf_files(path), doctest::Contains("key split.count is \"two\"; a count is due"), Error);
}

TEST_CASE("a model is called as its file, without the part") {
  CHECK(gguf_model_name("/models/Qwen3-8B.Q4_K_M.gguf") == "Qwen3-8B.Q4_K_M");
  CHECK(gguf_model_name("Big-00001-of-00012.gguf") == "Big");
  CHECK(gguf_model_name("Big-0001-of-0012.gguf") == "Big-0001-of-0012");
}

}  // namespace layerprobe::weights
