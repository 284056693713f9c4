#pragma once

#include <bit>
#include <cstdint>

namespace layerprobe {

/// bfloat16: the upper half of an f32. All bits of a NaN's upper half are kept and it stays a NaN.
constexpr float f32_of_bf16(std::uint16_t bits) { return std::bit_cast<float>(std::uint32_t{bits} << 16); }

/// Round to nearest, ties to even, as torch does; a NaN becomes the quiet NaN 0x7fc0 (sign kept).
constexpr std::uint16_t bf16_of_f32(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return static_cast<std::uint16_t>((bits >> 16 & 0x8000u) | 0x7fc0u);
  return static_cast<std::uint16_t>((bits + 0x7fffu + (bits >> 16 & 1u)) >> 16);
}

/// `a` where `condition` holds, else `b`, by masks: the compiler keeps floating-point operations whose result may go
/// unused inside branches (they could trap), and loops with branches do not vectorise.
constexpr std::uint32_t selected(bool condition, std::uint32_t a, std::uint32_t b) {
  const std::uint32_t mask = 0u - static_cast<std::uint32_t>(condition);
  return (a & mask) | (b & ~mask);
}

/// IEEE 754 binary16, subnormals included.
constexpr float f32_of_f16(std::uint16_t half) {
  const std::uint32_t sign = std::uint32_t{half & 0x8000u} << 16;
  const std::uint32_t magnitude = half & 0x7fffu;
  const std::uint32_t subnormal =
      std::bit_cast<std::uint32_t>(static_cast<float>(static_cast<int>(magnitude)) * 0x1p-24f);
  const std::uint32_t normal = (magnitude << 13) + (112u << 23);
  const std::uint32_t infinity_or_nan = magnitude << 13 | 0x7f800000u;
  const std::uint32_t finite = selected(magnitude < 0x0400u, subnormal, normal);
  return std::bit_cast<float>(sign | selected(magnitude < 0x7c00u, finite, infinity_or_nan));
}

/// Round to nearest, ties to even; beyond 65504 by half an ulp gives infinity; a NaN stays a (quiet) NaN.
constexpr std::uint16_t f16_of_f32(float value) {
  const std::uint32_t bits = std::bit_cast<std::uint32_t>(value);
  const std::uint32_t sign = bits >> 16 & 0x8000u;
  const std::uint32_t magnitude = bits & 0x7fffffffu;
  // Below 2^-14 a multiple of 2^-24: 0.5 has an ulp of 2^-24, so that the addition rounds.
  const std::uint32_t small = selected(magnitude < 0x38800000u, magnitude, 0u);
  const std::uint32_t subnormal = std::bit_cast<std::uint32_t>(std::bit_cast<float>(small) + 0.5f) - 0x3f000000u;
  const std::uint32_t normal = (magnitude + 0xfffu + (magnitude >> 13 & 1u) - 0x38000000u) >> 13;
  const std::uint32_t finite = selected(magnitude < 0x38800000u, subnormal, normal);
  const std::uint32_t infinity_or_nan = selected(magnitude > 0x7f800000u, 0x7e00u, 0x7c00u);
  return static_cast<std::uint16_t>(sign | selected(magnitude < 0x477ff000u, finite, infinity_or_nan));  // 65520
}

}  // namespace layerprobe
