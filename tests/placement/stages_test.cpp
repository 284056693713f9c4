#include "placement/stages.h"

#include <doctest/doctest.h>

#include <algorithm>
#include <limits>
#include <numeric>

#include "runtime/random.h"

namespace layerprobe::placement {
namespace {

/// The slowest stage of the best cuts, by a dynamic program over all of them.
double best_by_trying(std::size_t count, std::size_t num_stages, const RangeSeconds& seconds) {
  std::vector<double> best(count + 1, std::numeric_limits<double>::infinity());
  best[0] = 0;
  for (std::size_t stage = 0; stage < num_stages; ++stage) {
    std::vector<double> next(count + 1, std::numeric_limits<double>::infinity());
    for (std::size_t end = 0; end <= count; ++end) {
      for (std::size_t begin = 0; begin <= end; ++begin) {
        next[end] = std::min(next[end], std::max(best[begin], seconds(stage, begin, end)));
      }
    }
    best = next;
  }
  return best[count];
}

}  // namespace

TEST_CASE("the slowest stage is as fast as any cut's can be, within what fits") {
  std::vector<double> random(400);
  runtime::random_normal(3, 0, random);
  std::size_t next = 0;
  const auto number = [&] { return std::abs(random[next++ % random.size()]) + 0.05; };
  for (int round = 0; round < 300; ++round) {
    CAPTURE(round);
    const std::size_t count = static_cast<std::size_t>(round % 13),
                      num_stages = static_cast<std::size_t>(round % 5 + 1);
    std::vector<double> work(count), bytes(count), limits(num_stages);
    for (double& each : work) each = number();
    for (double& each : bytes) each = number();
    for (double& each : limits) each = 4 * number();
    const auto sum = [](const std::vector<double>& of, std::size_t begin, std::size_t end) {
      return std::accumulate(of.begin() + static_cast<std::ptrdiff_t>(begin),
                             of.begin() + static_cast<std::ptrdiff_t>(end), 0.0);
    };
    const RangeSeconds seconds = [&](std::size_t stage, std::size_t begin, std::size_t end) {
      if (sum(bytes, begin, end) > limits[stage]) return std::numeric_limits<double>::infinity();
      return sum(work, begin, end);
    };
    const double best = best_by_trying(count, num_stages, seconds);
    const std::optional<Cuts> cuts = cut_evenly(work, num_stages, seconds);
    REQUIRE(cuts.has_value() == (best < std::numeric_limits<double>::infinity()));
    if (!cuts) continue;
    CHECK(cuts->slowest_seconds == doctest::Approx(best));
    REQUIRE(cuts->ends.size() == num_stages);
    CHECK(cuts->ends.back() == count);
    for (std::size_t stage = 0, begin = 0; stage < num_stages; begin = cuts->ends[stage++]) {
      CHECK(begin <= cuts->ends[stage]);
      CHECK(seconds(stage, begin, cuts->ends[stage]) <= cuts->slowest_seconds * (1 + 1e-9));
    }
  }
}

TEST_CASE("what the slowest stage leaves open is shared evenly") {
  const std::vector<double> work(34, 1.0);
  const auto cuts = cut_evenly(
      work, 4, [](std::size_t, std::size_t begin, std::size_t end) { return static_cast<double>(end - begin); });
  REQUIRE(cuts);
  CHECK(cuts->slowest_seconds == 9);
  std::vector<std::size_t> sizes;
  for (std::size_t stage = 0; stage < 4; ++stage) {
    sizes.push_back(cuts->ends[stage] - (stage == 0 ? 0 : cuts->ends[stage - 1]));
  }
  std::ranges::sort(sizes);
  CHECK(sizes == std::vector<std::size_t>{8, 8, 9, 9});
}

}  // namespace layerprobe::placement
