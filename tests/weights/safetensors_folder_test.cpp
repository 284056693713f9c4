#include <doctest/doctest.h>

#include <filesystem>

#include "base/error.h"
#include "tests/support/model_files.h"
#include "weights/safetensors.h"

namespace layerprobe::weights {
namespace {

namespace fs = std::filesystem;

/// A safetensors file that holds one byte under that name.
std::string one_tensor(const std::string& name) {
  return test::safetensors("{\"" + name + R"(": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]}})", "\x07");
}

std::string index_of(const std::string& weight_map) {
  return R"({"metadata": {}, "weight_map": {)" + weight_map + "}}";
}

constexpr const char* kIndex = "model.safetensors.index.json";

}  // namespace

TEST_CASE("shards are opened once each, as the index names them") {
  const test::TempFolder folder;
  folder.write("one.safetensors", one_tensor("a"));
  folder.write("two.safetensors", one_tensor("b"));
  folder.write("consolidated.safetensors", one_tensor("other"));
  folder.write(kIndex, index_of(R"("a": "one.safetensors", "b": "two.safetensors")"));
  const SafetensorsFolder opened = open_safetensors_folder(folder.path());
  CHECK(opened.files.size() == 2);
  REQUIRE(opened.tensors.size() == 2);
  for (const TensorInfo& tensor : opened.tensors) {
    const std::string file = opened.files[static_cast<std::size_t>(tensor.file)].path().filename().string();
    CHECK(file == (tensor.name == "a" ? "one.safetensors" : "two.safetensors"));
  }
}

TEST_CASE("a single file goes before the index, whatever its name where it is the only one") {
  const test::TempFolder folder;
  folder.write("weights.safetensors", one_tensor("only"));
  CHECK(open_safetensors_folder(folder.path()).tensors.front().name == "only");
  folder.write(kIndex, index_of(R"("only": "weights.safetensors")"));
  folder.write("model.safetensors", one_tensor("single"));
  CHECK(open_safetensors_folder(folder.path()).tensors.front().name == "single");
}

TEST_CASE("a missing shard is named") {
  const test::TempFolder folder;
  folder.write("one.safetensors", one_tensor("a"));
  folder.write(kIndex, index_of(R"("a": "one.safetensors", "b": "two.safetensors")"));
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()),
                       doctest::Contains("index.json: names two.safetensors, which is missing"), Error);
}

TEST_CASE("a tensor that its shard does not hold is named") {
  const test::TempFolder folder;
  folder.write("one.safetensors", one_tensor("a"));
  folder.write("two.safetensors", one_tensor("b"));
  folder.write(kIndex, index_of(R"("a": "two.safetensors", "b": "one.safetensors")"));
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()),
                       doctest::Contains("says that tensor a is in two.safetensors, but it is not there"), Error);
}

TEST_CASE("an index that names a file elsewhere is refused") {
  const test::TempFolder folder;
  folder.write("outside.safetensors", one_tensor("a"));
  for (const std::string name : {"../outside.safetensors", "/etc/passwd", "sub/x.safetensors", "..", ""}) {
    CAPTURE(name);
    folder.write(std::string("model/") + kIndex, index_of("\"a\": \"" + name + "\""));
    CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path() / "model"),
                         doctest::Contains("a shard is a plain file of its folder"), Error);
  }
}

TEST_CASE("a shard that is a link out of the folder is refused") {
  const test::TempFolder folder;
  folder.write("outside.safetensors", one_tensor("a"));
  folder.write(std::string("model/") + kIndex, index_of(R"("a": "x.safetensors")"));
  fs::create_symlink("../outside.safetensors", folder.path() / "model/x.safetensors");
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path() / "model"), doctest::Contains("outside the folder"),
                       Error);
}

TEST_CASE("a shard that is a link within the folder is followed, and so is a link to the folder") {
  const test::TempFolder folder;
  folder.write("model/real.safetensors", one_tensor("a"));
  folder.write(std::string("model/") + kIndex, index_of(R"("a": "x.safetensors")"));
  fs::create_symlink("real.safetensors", folder.path() / "model/x.safetensors");
  fs::create_directory_symlink("model", folder.path() / "link");
  CHECK(open_safetensors_folder(folder.path() / "link").tensors.size() == 1);
}

TEST_CASE("a Hugging Face cache's links lead to its own blobs and no further") {
  const test::TempFolder folder;
  const fs::path snapshot = folder.path() / "models--org--name/snapshots/abc";
  folder.write("models--org--name/blobs/0123", one_tensor("a"));
  folder.write("models--org--other/blobs/0123", one_tensor("a"));
  folder.write(std::string("models--org--name/snapshots/abc/") + kIndex, index_of(R"("a": "x.safetensors")"));
  fs::create_symlink("../../blobs/0123", snapshot / "x.safetensors");
  CHECK(open_safetensors_folder(snapshot).tensors.size() == 1);
  fs::remove(snapshot / "x.safetensors");
  fs::create_symlink("../../../models--org--other/blobs/0123", snapshot / "x.safetensors");
  CHECK_THROWS_WITH_AS(open_safetensors_folder(snapshot), doctest::Contains("outside the folder"), Error);
}

TEST_CASE("an index without a map, or whose map is none of names, is refused") {
  const test::TempFolder folder;
  folder.write(kIndex, "{}");
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()), doctest::Contains("has no weight_map"), Error);
  folder.write(kIndex, index_of(R"("a": 1)"));
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()), doctest::Contains("tensor a has no file"), Error);
}

TEST_CASE("shards without their index are refused") {
  const test::TempFolder folder;
  folder.write("model-00001-of-00002.safetensors", one_tensor("a"));
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()), doctest::Contains("but no model.safetensors.index.json"),
                       Error);
}

TEST_CASE("a folder with other weights than safetensors says what it holds") {
  const test::TempFolder folder;
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()), doctest::Contains("holds no .safetensors file"), Error);
  folder.write("pytorch_model-00001-of-00002.bin", "");
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()),
                       doctest::Contains("pytorch_model-00001-of-00002.bin is a pickle"), Error);
  folder.write("m.gguf", "");
  CHECK_THROWS_WITH_AS(open_safetensors_folder(folder.path()), doctest::Contains("name the GGUF: --model"), Error);
}

}  // namespace layerprobe::weights
