#include "weights/read_scaled.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

#include "base/file.h"
#include "base/float16.h"
#include "tests/support/temp_folder.h"

namespace layerprobe::weights {

TEST_CASE("numbers of F8_E4M3 are those of its definition") {
  CHECK(f32_of_e4m3(0x00) == 0);
  CHECK(std::signbit(f32_of_e4m3(0x80)));
  CHECK(f32_of_e4m3(0x01) == 0x1p-9f);
  CHECK(f32_of_e4m3(0x07) == 7 * 0x1p-9f);
  CHECK(f32_of_e4m3(0x08) == 0x1p-6f);
  CHECK(f32_of_e4m3(0x38) == 1);
  CHECK(f32_of_e4m3(0xbc) == -1.5f);
  CHECK(f32_of_e4m3(0x7e) == 448);
  CHECK(std::isnan(f32_of_e4m3(0x7f)));
  CHECK(std::isnan(f32_of_e4m3(0xff)));
}

TEST_CASE("an F8_E4M3 matrix is multiplied by the factors of its blocks, partial last ones too") {
  const test::TempFolder folder;
  constexpr std::int64_t kRows = 5, kColumns = 7, kBlockRows = 2, kBlockColumns = 4;
  std::vector<std::uint8_t> stored(kRows * kColumns);
  for (std::size_t i = 0; i < stored.size(); ++i) stored[i] = static_cast<std::uint8_t>(i * 37 % 126);
  std::vector<float> factors = {0.3f, 1.7f, 2.1f, 0.013f, 5, 0.11f};
  const std::filesystem::path path = folder.path() / "values";
  File::create(path).write_at(0, std::as_bytes(std::span(stored)));
  const std::filesystem::path factors_path = folder.path() / "factors";
  const std::uint8_t exponents[] = {127, 128, 126, 130, 120, 127};
  {
    const File file = File::create(factors_path);
    file.write_at(0, std::as_bytes(std::span(factors)));
    file.write_at(24, std::as_bytes(std::span(exponents)));
  }
  const File file = File::open_for_reading(path), factors_file = File::open_for_reading(factors_path);
  const TensorInfo tensor{.name = "w", .storage = Storage::f8_e4m3, .shape = {kRows, kColumns}, .bytes = 35};
  TensorInfo scales{.name = "w_scale_inv", .storage = Storage::f32, .shape = {3, 2}, .bytes = 24};
  const auto read = [&](Dtype dtype) {
    std::vector<std::byte> out(stored.size() * size_of(dtype));
    read_scaled_values({file, tensor, factors_file, scales, kBlockRows, kBlockColumns}, dtype, out.data());
    return out;
  };
  const auto factor_of = [&](std::size_t i) {
    const auto row = static_cast<std::int64_t>(i) / kColumns, column = static_cast<std::int64_t>(i) % kColumns;
    return factors[static_cast<std::size_t>(row / kBlockRows * 2 + column / kBlockColumns)];
  };
  std::vector<std::byte> f32 = read(Dtype::f32), bf16 = read(Dtype::bf16), f64 = read(Dtype::f64);
  for (std::size_t i = 0; i < stored.size(); ++i) {
    const float expected = f32_of_e4m3(stored[i]) * factor_of(i);
    CHECK(reinterpret_cast<const float*>(f32.data())[i] == expected);
    CHECK(reinterpret_cast<const std::uint16_t*>(bf16.data())[i] == bf16_of_f32(expected));
    CHECK(reinterpret_cast<const double*>(f64.data())[i] == double{f32_of_e4m3(stored[i])} * double{factor_of(i)});
  }
  scales.storage = Storage::f8_e8m0;
  scales.offset = 24;
  f32 = read(Dtype::f32);
  CHECK(reinterpret_cast<const float*>(f32.data())[0] == f32_of_e4m3(stored[0]));
  CHECK(reinterpret_cast<const float*>(f32.data())[4] == 2 * f32_of_e4m3(stored[4]));
  CHECK(reinterpret_cast<const float*>(f32.data())[14] == f32_of_e4m3(stored[14]) / 2);
}

}  // namespace layerprobe::weights
