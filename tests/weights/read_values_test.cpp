#include "weights/read_values.h"

#include <doctest/doctest.h>

#include <filesystem>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "tests/support/model_files.h"

namespace layerprobe::weights {
namespace {

/// The values 0, 1, 2, ... of a file of I32, which is every tensor of these cases.
std::vector<float> read_counting(TensorInfo tensor, std::int64_t total) {
  std::vector<std::int32_t> stored(static_cast<std::size_t>(total));
  std::iota(stored.begin(), stored.end(), 0);
  const test::TempFolder folder;
  const File file = File::open_for_reading(folder.write("values", test::raw(stored)));
  std::vector<float> out(static_cast<std::size_t>(tensor.num_elements()), -1.0f);
  read_values(file, tensor, Dtype::f32, reinterpret_cast<std::byte*>(out.data()));
  return out;
}

}  // namespace

TEST_CASE("a tensor of several pieces is read whole, from its offset on") {
  const TensorInfo tensor{.name = "t", .storage = Storage::i32, .shape = {3, 70'001}, .offset = 400};
  const std::vector<float> values = read_counting(tensor, 100 + 3 * 70'001);
  for (std::size_t i = 0; i < values.size(); ++i) REQUIRE(values[i] == static_cast<float>(100 + i));
}

TEST_CASE("rows of interleaved heads come back in transformers' order") {
  // Two heads of 6 rows: stored rows 0 2 4 1 3 5 of each head are transformers' rows 0 to 5 (model-math 10.5).
  for (const std::int64_t row_elements : {1, 3, 30'000}) {  // 30,000: pieces end inside rows
    CAPTURE(row_elements);
    const TensorInfo tensor{.name = "q", .storage = Storage::i32, .shape = {12, row_elements}, .interleaved_heads = 2};
    const std::vector<float> values = read_counting(tensor, 12 * row_elements);
    constexpr std::int64_t kStoredRow[] = {0, 2, 4, 1, 3, 5, 6, 8, 10, 7, 9, 11};
    for (std::int64_t row = 0; row < 12; ++row) {
      for (const std::int64_t column : {std::int64_t{0}, row_elements - 1}) {
        CAPTURE(row);
        REQUIRE(values[static_cast<std::size_t>(row * row_elements + column)] ==
                static_cast<float>(kStoredRow[row] * row_elements + column));
      }
    }
  }
}

TEST_CASE("an interleaved bias is put in order too") {
  const TensorInfo tensor{.name = "q.bias", .storage = Storage::i32, .shape = {4}, .interleaved_heads = 1};
  CHECK(read_counting(tensor, 4) == std::vector<float>{0, 2, 1, 3});
}

TEST_CASE("a storage that means nothing by itself is refused with the tensor's name") {
  const TensorInfo tensor{.name = "w", .storage = Storage::f8_e4m3, .shape = {4}};
  CHECK_THROWS_WITH_AS(read_counting(tensor, 4), doctest::Contains("values: w: is stored as F8_E4M3"), Error);
}

TEST_CASE("a file that has become shorter since it was opened is an error") {
  const TensorInfo tensor{.name = "t", .storage = Storage::i32, .shape = {300'000}};
  CHECK_THROWS_WITH_AS(read_counting(tensor, 200'000), doctest::Contains("ends at byte 800000"), Error);
}

}  // namespace layerprobe::weights
