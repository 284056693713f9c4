#include "weights/safetensors.h"

#include <doctest/doctest.h>

#include <chrono>

#include "base/error.h"
#include "tests/support/model_files.h"

namespace layerprobe::weights {
namespace {

std::vector<TensorInfo> header_of(const std::string& file_bytes) {
  const test::TempFolder folder;
  return read_safetensors_header(File::open_for_reading(folder.write("model.safetensors", file_bytes)), 0);
}

/// The header of a file with these tensors and `data_bytes` of zeros.
std::vector<TensorInfo> header_of(const std::string& tensors, std::size_t data_bytes) {
  return header_of(test::safetensors("{" + tensors + "}", std::string(data_bytes, '\0')));
}

}  // namespace

TEST_CASE("a safetensors header gives name, dtype, shape and place of each tensor") {
  const std::string header = R"({"b": {"dtype": "F8_E4M3", "shape": [], "data_offsets": [0, 1]},
                                 "a": {"dtype": "I64", "shape": [2, 3], "data_offsets": [1, 49]},
                                 "none": {"dtype": "F32", "shape": [0, 7], "data_offsets": [49, 49]}})";
  const std::vector<TensorInfo> tensors = header_of(test::safetensors(header, std::string(49, '\0')));
  REQUIRE(tensors.size() == 3);
  CHECK(tensors[0].name == "b");
  CHECK(tensors[0].storage == Storage::f8_e4m3);
  CHECK(tensors[0].shape.empty());
  CHECK(tensors[0].num_elements() == 1);
  CHECK(tensors[1].storage == Storage::i64);
  CHECK(tensors[1].shape == std::vector<std::int64_t>{2, 3});
  CHECK(tensors[1].offset == 8 + header.size() + 1);
  CHECK(tensors[1].bytes == 48);
  CHECK(tensors[2].num_elements() == 0);
}

TEST_CASE("a file too short for a header is refused") {
  CHECK_THROWS_WITH_AS(header_of("1234567"), doctest::Contains("is 7 bytes, too short"), Error);
}

TEST_CASE("a header longer than the file is refused") {
  CHECK_THROWS_WITH_AS(header_of(test::raw(std::uint64_t{3}) + "{}"),
                       doctest::Contains("header of 3 bytes in a file of 10"), Error);
}

TEST_CASE("a header over 100 MB is refused before memory is taken") {
  CHECK_THROWS_WITH_AS(header_of(test::raw(~std::uint64_t{0}) + "{}"),
                       doctest::Contains("header of 18446744073709551615 bytes; at most 100000000 are read"), Error);
}

TEST_CASE("a header that is no JSON object is refused") {
  CHECK_THROWS_WITH_AS(header_of(test::safetensors("[]", "")), doctest::Contains("its header is of kind array"), Error);
  CHECK_THROWS_WITH_AS(header_of(test::safetensors("{\"a\"", "")), doctest::Contains("header: not valid JSON"), Error);
}

TEST_CASE("a header nested a thousand deep is refused") {
  CHECK_THROWS_WITH_AS(header_of("\"a\": " + std::string(1000, '[') + std::string(1000, ']'), 0),
                       doctest::Contains("nested deeper than 100"), Error);
}

TEST_CASE("what Git leaves in the place of large files is told as such") {
  CHECK_THROWS_WITH_AS(header_of("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n"),
                       doctest::Contains("is a Git LFS pointer, which stands for the weights"), Error);
}

TEST_CASE("a header that is not UTF-8 is refused") {
  CHECK_THROWS_WITH_AS(header_of("\"\xff\": {\"dtype\": \"U8\", \"shape\": [1], \"data_offsets\": [0, 1]}", 1),
                       doctest::Contains("not valid JSON at byte"), Error);
}

TEST_CASE("a tensor that stands twice in a header is refused") {
  const std::string tensor = R"("a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1]})";
  CHECK_THROWS_WITH_AS(header_of(tensor + "," + tensor, 1), doctest::Contains("the name \"a\" stands twice"), Error);
}

TEST_CASE("a dtype that is not known is refused with the tensor's name") {
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "C64", "shape": [1], "data_offsets": [0, 8]})", 8),
                       doctest::Contains("tensor a: dtype C64 is not known"), Error);
}

TEST_CASE("an entry without dtype, shape or offsets is refused") {
  CHECK_THROWS_WITH_AS(header_of(R"("a": 1)", 0), doctest::Contains("tensor a: its entry is of kind integer"), Error);
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"shape": [1], "data_offsets": [0, 1]})", 1),
                       doctest::Contains("tensor a: has no dtype"), Error);
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "data_offsets": [0, 1]})", 1),
                       doctest::Contains("its shape is no list of sizes"), Error);
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "shape": [1]})", 1),
                       doctest::Contains("its data_offsets are no pair"), Error);
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "shape": [1], "data_offsets": [0, 1, 2]})", 1),
                       doctest::Contains("its data_offsets are no pair"), Error);
}

TEST_CASE("a negative, fractional or enormous size in a shape is refused") {
  for (const char* size : {"-1", "1.5", "18446744073709551615", "\"1\""}) {
    CAPTURE(size);
    CHECK_THROWS_WITH_AS(
        header_of(std::string(R"("a": {"dtype": "U8", "shape": [)") + size + R"(], "data_offsets": [0, 1]})", 1),
        doctest::Contains("its shape is no list of sizes"), Error);
  }
}

TEST_CASE("a shape whose product overflows is refused") {
  CHECK_THROWS_WITH_AS(
      header_of(R"("a": {"dtype": "F32", "shape": [4294967296, 4294967296, 4], "data_offsets": [0, 0]})", 0),
      doctest::Contains("tensor a: shape [4294967296, 4294967296, 4] overflows"), Error);
  CHECK_THROWS_WITH_AS(  // the elements do not overflow, the bytes would
      header_of(R"("a": {"dtype": "F64", "shape": [4611686018427387904], "data_offsets": [0, 0]})", 0),
      doctest::Contains("overflows"), Error);
  CHECK_THROWS_WITH_AS(  // no element, and still not to be multiplied out
      header_of(R"("a": {"dtype": "F32", "shape": [4294967296, 4294967296, 0], "data_offsets": [0, 0]})", 0),
      doctest::Contains("overflows"), Error);
}

TEST_CASE("offsets beyond the file or in the wrong order are refused") {
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "shape": [9], "data_offsets": [0, 9]})", 8),
                       doctest::Contains("tensor a: data_offsets 0 to 9, where the file has 8 bytes of data"), Error);
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "shape": [1], "data_offsets": [2, 1]})", 8),
                       doctest::Contains("data_offsets 2 to 1"), Error);
}

TEST_CASE("bytes that disagree with dtype and shape are refused") {
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 8]})", 8),
                       doctest::Contains("tensor a: shape [2, 3] of BF16 takes 12 bytes, but data_offsets give it 8"),
                       Error);
}

TEST_CASE("tensors that overlap are refused with both names") {
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]},
                                    "b": {"dtype": "U8", "shape": [4], "data_offsets": [3, 7]})",
                                 7),
                       doctest::Contains("tensor b: overlaps tensor a"), Error);
}

TEST_CASE("data that belongs to no tensor is refused") {
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "shape": [4], "data_offsets": [2, 6]})", 6),
                       doctest::Contains("bytes 0 to 2 of the data belong to no tensor"), Error);
  CHECK_THROWS_WITH_AS(header_of(R"("a": {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]})", 6),
                       doctest::Contains("bytes 4 to 6 of the data belong to no tensor"), Error);
}

TEST_CASE("a header of 100,000 tensors is read in time that grows with its length") {
  std::string tensors;
  for (int i = 0; i < 100'000; ++i) {
    const std::string at = std::to_string(i);
    tensors += (i == 0 ? "\"" : ",\"") + at + R"(": {"dtype": "U8", "shape": [1, 1], "data_offsets": [)" + at + "," +
               std::to_string(i + 1) + "]}";
  }
  const auto start = std::chrono::steady_clock::now();
  CHECK(header_of(tensors, 100'000).size() == 100'000);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));  // a quadratic reader takes minutes
}

}  // namespace layerprobe::weights
