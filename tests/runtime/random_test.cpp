#include "runtime/random.h"

#include <doctest/doctest.h>

#include <cmath>
#include <vector>

namespace layerprobe::runtime {

TEST_CASE("philox gives the words of its authors' test vectors") {
  // Random123's kat_vectors, philox4x32-10, counter 0 and key 0.
  const PhiloxBlock block = philox(0, 0);
  CHECK(block.words[0] == 0x6627e8d5u);
  CHECK(block.words[1] == 0xe169c58du);
  CHECK(block.words[2] == 0xbc57ac4cu);
  CHECK(block.words[3] == 0x9b00dbd8u);
}

TEST_CASE("normal numbers depend on their index alone and have mean 0 and deviation 1") {
  std::vector<double> whole(40'000), part(7);
  random_normal(3, 0, whole);
  random_normal(3, 13, part);
  for (std::size_t i = 0; i < part.size(); ++i) CHECK(part[i] == whole[13 + i]);
  double sum = 0, squares = 0;
  for (const double value : whole) {
    REQUIRE(std::isfinite(value));
    sum += value;
    squares += value * value;
  }
  CHECK(std::abs(sum / 40'000) < 0.02);
  CHECK(std::abs(squares / 40'000 - 1) < 0.03);
}

TEST_CASE("random ids fill the vocabulary and nothing else") {
  std::vector<std::int32_t> ids(10'000);
  random_ids(0, 7, ids);
  std::vector<int> seen(7);
  for (const std::int32_t id : ids) {
    REQUIRE(id >= 0);
    REQUIRE(id < 7);
    ++seen[static_cast<std::size_t>(id)];
  }
  for (const int count : seen) CHECK(count > 1200);
}

}  // namespace layerprobe::runtime
