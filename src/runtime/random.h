#pragma once

#include <cstdint>
#include <span>

namespace layerprobe::runtime {

/// Philox4x32-10 (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"): the four words of block `counter`
/// for the key `seed`. Counter words 2 and 3 are 0.
struct PhiloxBlock {
  std::uint32_t words[4];
};
PhiloxBlock philox(std::uint64_t seed, std::uint64_t counter);

/// N(0, 1) by element index: element i comes from words (i % 4) / 2 * 2 and the next of block i / 4, by Box and Muller:
/// u1 = (w0 + 1) / 2^32, u2 = w1 / 2^32, r = sqrt(-2 ln u1); the even element is r cos(2 pi u2), the odd one
/// r sin(2 pi u2), all in f64.
void random_normal(std::uint64_t seed, std::uint64_t first_element, std::span<double> out);

/// Ids in [0, vocab_size) by element index: word i % 4 of block i / 4, times vocab_size, divided by 2^32, rounded down.
void random_ids(std::uint64_t seed, std::int64_t vocab_size, std::span<std::int32_t> out);

}  // namespace layerprobe::runtime
