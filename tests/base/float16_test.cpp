#include "base/float16.h"

#include <doctest/doctest.h>

#include <cmath>
#include <limits>

namespace layerprobe {

TEST_CASE("every f16 and bf16 that is no NaN survives f32 and back") {
  for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<std::uint16_t>(bits);
    if (!std::isnan(f32_of_f16(half))) REQUIRE(f16_of_f32(f32_of_f16(half)) == half);
    if (!std::isnan(f32_of_bf16(half))) REQUIRE(bf16_of_f32(f32_of_bf16(half)) == half);
  }
}

TEST_CASE("an f16 has the value that IEEE 754 gives it") {
  for (std::uint32_t bits = 0; bits < 0x7c00; ++bits) {
    const int exponent = static_cast<int>(bits >> 10);
    const int mantissa = static_cast<int>(bits & 0x3ffu);
    const double value = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
    REQUIRE(f32_of_f16(static_cast<std::uint16_t>(bits)) == value);
    REQUIRE(f32_of_f16(static_cast<std::uint16_t>(bits | 0x8000u)) == -value);
  }
  CHECK(f32_of_f16(0x7c00) == std::numeric_limits<float>::infinity());
}

TEST_CASE("rounding is to nearest, ties to even") {
  CHECK(bf16_of_f32(1.0f + 0x1p-8f) == 0x3f80);      // half-way, even below
  CHECK(bf16_of_f32(1.0f + 3 * 0x1p-8f) == 0x3f82);  // half-way, even above
  CHECK(bf16_of_f32(1.0f + 0x1p-8f + 0x1p-20f) == 0x3f81);
  CHECK(f16_of_f32(1.0f + 0x1p-11f) == 0x3c00);
  CHECK(f16_of_f32(1.0f + 3 * 0x1p-11f) == 0x3c02);
  CHECK(f16_of_f32(0x1p-25f) == 0);  // half of the smallest subnormal: ties to even
  CHECK(f16_of_f32(3 * 0x1p-25f) == 2);
  CHECK(f16_of_f32(65519.0f) == 0x7bff);
  CHECK(f16_of_f32(65520.0f) == 0x7c00);
  CHECK(f16_of_f32(-std::numeric_limits<float>::infinity()) == 0xfc00);
}

TEST_CASE("a NaN stays a NaN, whatever its payload") {
  const float low_payload = std::bit_cast<float>(0x7f800001u);  // truncation alone would make it an infinity
  CHECK(std::isnan(f32_of_bf16(bf16_of_f32(low_payload))));
  CHECK(std::isnan(f32_of_f16(f16_of_f32(low_payload))));
}

}  // namespace layerprobe
