#include "runtime/random.h"

#include <cmath>
#include <numbers>

namespace layerprobe::runtime {

PhiloxBlock philox(std::uint64_t seed, std::uint64_t counter) {
  std::uint32_t c0 = static_cast<std::uint32_t>(counter), c1 = static_cast<std::uint32_t>(counter >> 32), c2 = 0,
                c3 = 0;
  std::uint32_t k0 = static_cast<std::uint32_t>(seed), k1 = static_cast<std::uint32_t>(seed >> 32);
  for (int round = 0; round < 10; ++round) {
    const std::uint64_t a = std::uint64_t{0xD2511F53u} * c0;
    const std::uint64_t b = std::uint64_t{0xCD9E8D57u} * c2;
    c0 = static_cast<std::uint32_t>(b >> 32) ^ c1 ^ k0;
    c1 = static_cast<std::uint32_t>(b);
    c2 = static_cast<std::uint32_t>(a >> 32) ^ c3 ^ k1;
    c3 = static_cast<std::uint32_t>(a);
    k0 += 0x9E3779B9u;
    k1 += 0xBB67AE85u;
  }
  return {{c0, c1, c2, c3}};
}

void random_normal(std::uint64_t seed, std::uint64_t first_element, std::span<double> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t element = first_element + i;
    const PhiloxBlock block = philox(seed, element / 4);
    const std::size_t pair = element % 4 / 2 * 2;
    const double radius = std::sqrt(-2 * std::log((block.words[pair] + 1.0) * 0x1p-32));
    const double angle = 2 * std::numbers::pi * (block.words[pair + 1] * 0x1p-32);
    out[i] = radius * (element % 2 == 0 ? std::cos(angle) : std::sin(angle));
  }
}

void random_ids(std::uint64_t seed, std::int64_t vocab_size, std::span<std::int32_t> out) {
  for (std::size_t i = 0; i < out.size(); ++i) {
    const std::uint64_t word = philox(seed, i / 4).words[i % 4];
    out[i] = static_cast<std::int32_t>(word * static_cast<std::uint64_t>(vocab_size) >> 32);
  }
}

}  // namespace layerprobe::runtime
