#include "tests/support/stored_bytes.h"

#include <cstring>
#include <random>

namespace layerprobe::test {
namespace {

/// Where a block has numbers in f16, in bytes.
std::vector<std::size_t> f16_places(Storage storage) {
  switch (storage) {
    case Storage::q4_0:
    case Storage::q5_0:
    case Storage::q8_0:
      return {0};
    case Storage::q4_1:
    case Storage::q5_1:
    case Storage::q4_k:
    case Storage::q5_k:
      return {0, 2};
    case Storage::q2_k:
      return {80, 82};
    case Storage::q3_k:
      return {108};
    case Storage::q6_k:
      return {208};
    default:
      return {};
  }
}

/// A number of `Bits` from random bits: no NaN, and every other one between 2^-30 and 2^15, near the bounds of f16.
template <typename Bits>
Bits number(Bits bits, int mantissa_bits, Bits exponent_mask, Bits bias, std::int64_t i) {
  const Bits mantissa_mask = static_cast<Bits>((Bits{1} << mantissa_bits) - 1);
  Bits exponent = static_cast<Bits>(bits >> mantissa_bits & exponent_mask);
  if (i % 2 == 1 && bias > 30) exponent = static_cast<Bits>(bias - 30 + exponent % 46);
  const Bits sign = static_cast<Bits>(bits & ~static_cast<Bits>(static_cast<Bits>(-1) >> 1));
  const Bits mantissa = exponent == exponent_mask ? Bits{0} : static_cast<Bits>(bits & mantissa_mask);
  return static_cast<Bits>(sign | static_cast<Bits>(exponent << mantissa_bits) | mantissa);
}

template <typename Bits>
void make_numbers(std::vector<std::byte>& bytes, int mantissa_bits, Bits exponent_mask, Bits bias) {
  for (std::size_t at = 0; at < bytes.size(); at += sizeof(Bits)) {
    Bits bits;
    std::memcpy(&bits, bytes.data() + at, sizeof bits);
    bits = number<Bits>(bits, mantissa_bits, exponent_mask, bias, static_cast<std::int64_t>(at / sizeof(Bits)));
    std::memcpy(bytes.data() + at, &bits, sizeof bits);
  }
}

}  // namespace

std::vector<std::byte> random_stored(Storage storage, std::int64_t count, std::uint64_t seed) {
  const StorageTraits& traits = traits_of(storage);
  const auto block_bytes = static_cast<std::size_t>(traits.block_bytes);
  std::vector<std::byte> bytes(static_cast<std::size_t>(count / traits.block_elements) * block_bytes);
  std::mt19937_64 random(seed);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random() >> 33);
  if (storage == Storage::f64) make_numbers<std::uint64_t>(bytes, 52, 0x7ff, 1023);
  if (storage == Storage::f32) make_numbers<std::uint32_t>(bytes, 23, 0xff, 127);
  if (storage == Storage::bf16) make_numbers<std::uint16_t>(bytes, 7, 0xff, 127);
  if (storage == Storage::f16) make_numbers<std::uint16_t>(bytes, 10, 0x1f, 15);
  for (std::size_t block = 0; block < bytes.size(); block += block_bytes) {
    for (const std::size_t place : f16_places(storage)) bytes[block + place + 1] &= std::byte{0xbf};  // finite
  }
  return bytes;
}

}  // namespace layerprobe::test
