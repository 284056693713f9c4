#include "weights/convert.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "base/file.h"
#include "base/float16.h"
#include "base/json.h"
#include "tests/support/model_files.h"
#include "tests/support/places.h"

namespace layerprobe::weights {
namespace {

/// `count` values of `stored` as `To`.
template <typename To>
std::vector<To> converted(Storage storage, const std::string& stored, std::size_t count, Dtype dtype) {
  std::vector<To> out(count, To{77});
  convert(storage, reinterpret_cast<const std::byte*>(stored.data()), static_cast<std::int64_t>(count), dtype,
          reinterpret_cast<std::byte*>(out.data()));
  return out;
}

std::string bytes_of_hex(const std::string& hex) {
  std::string out;
  for (std::size_t i = 0; i < hex.size(); i += 2)
    out.push_back(static_cast<char>(std::stoi(hex.substr(i, 2), nullptr, 16)));
  return out;
}

}  // namespace

TEST_CASE("every block type has ggml's values, bit for bit") {
  const std::string path = test::root_folder() / "tests/weights/dequantize_reference.json";
  const Json reference = Json::parse(read_text_file(path), path);
  CHECK(reference.find("types")->members().size() == 10);
  for (const auto& [name, type] : reference.find("types")->members()) {
    CAPTURE(name);
    Storage storage = Storage::q4_0;
    while (name_of(storage) != name) storage = static_cast<Storage>(static_cast<int>(storage) + 1);
    std::vector<float> expected;
    for (const Json& value : type.find("values")->items()) expected.push_back(static_cast<float>(value.number()));
    const std::string blocks = bytes_of_hex(type.find("blocks")->string());
    CHECK(converted<float>(storage, blocks, expected.size(), Dtype::f32) == expected);

    std::vector<std::uint16_t> rounded;
    for (const float value : expected) rounded.push_back(bf16_of_f32(value));
    CHECK(converted<std::uint16_t>(storage, blocks, expected.size(), Dtype::bf16) == rounded);
  }
}

TEST_CASE("plain types convert by value, rounded once to nearest even") {
  const std::vector<float> f32 = {1.0f + 0x1p-8f, -3.0f, 65520.0f, 0x1p-25f, 3 * 0x1p-25f};
  const std::string stored = test::raw(f32);
  CHECK(converted<std::uint16_t>(Storage::f32, stored, 5, Dtype::bf16) ==
        std::vector<std::uint16_t>{0x3f80, 0xc040, 0x4780, 0x3300, 0x33c0});
  CHECK(converted<std::uint16_t>(Storage::f32, stored, 5, Dtype::f16) ==
        std::vector<std::uint16_t>{0x3c04, 0xc200, 0x7c00, 0x0000, 0x0002});
  CHECK(converted<double>(Storage::f32, stored, 5, Dtype::f64) == std::vector<double>(f32.begin(), f32.end()));

  const std::string halves = test::raw(std::vector<std::uint16_t>{0x3c00, 0x0001, 0xfbff});
  CHECK(converted<float>(Storage::f16, halves, 3, Dtype::f32) == std::vector<float>{1.0f, 0x1p-24f, -65504.0f});
  CHECK(converted<std::uint16_t>(Storage::f16, halves, 3, Dtype::bf16) ==
        std::vector<std::uint16_t>{0x3f80, 0x3380, 0xc780});
  CHECK(converted<std::uint16_t>(Storage::bf16, test::raw(std::uint16_t{0x3f80}), 1, Dtype::f16)[0] == 0x3c00);
}

TEST_CASE("f64 and integers reach f64 without passing through f32") {
  const double third = 1.0 / 3.0;
  CHECK(converted<double>(Storage::f64, test::raw(third), 1, Dtype::f64)[0] == third);
  CHECK(converted<float>(Storage::f64, test::raw(third), 1, Dtype::f32)[0] == static_cast<float>(third));
  CHECK(converted<double>(Storage::i64, test::raw(std::int64_t{1} << 40 | 1), 1, Dtype::f64)[0] == 0x1p40 + 1);
  CHECK(converted<double>(Storage::i32, test::raw(std::int32_t{-16'777'217}), 1, Dtype::f64)[0] == -16'777'217.0);
  CHECK(converted<float>(Storage::i16, test::raw(std::int16_t{-7}), 1, Dtype::f32)[0] == -7.0f);
  CHECK(converted<float>(Storage::i8, test::raw(std::int8_t{-7}), 1, Dtype::f32)[0] == -7.0f);
  CHECK(converted<float>(Storage::u8, test::raw(std::uint8_t{255}), 1, Dtype::f32)[0] == 255.0f);
}

TEST_CASE("the same type is copied bit for bit, NaN payloads too") {
  const std::string stored = test::raw(std::vector<std::uint16_t>{0x7f81, 0xffff, 0x8000});
  CHECK(converted<std::uint16_t>(Storage::bf16, stored, 3, Dtype::bf16) ==
        std::vector<std::uint16_t>{0x7f81, 0xffff, 0x8000});
  CHECK(converted<std::uint16_t>(Storage::f16, stored, 3, Dtype::f16) ==
        std::vector<std::uint16_t>{0x7f81, 0xffff, 0x8000});
}

TEST_CASE("more values than a chunk are all converted") {
  std::vector<std::int32_t> stored;
  std::vector<float> expected;
  for (std::int32_t i = 0; i < 10'001; ++i) {
    stored.push_back(i * 3 - 5000);
    expected.push_back(static_cast<float>(i * 3 - 5000));
  }
  CHECK(converted<float>(Storage::i32, test::raw(stored), stored.size(), Dtype::f32) == expected);
}

}  // namespace layerprobe::weights
