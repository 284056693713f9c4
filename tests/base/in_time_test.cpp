#include "base/in_time.h"

#include <doctest/doctest.h>

#include <stdexcept>

namespace layerprobe {

TEST_CASE("what ends in time gives its answer, what does not is left to itself") {
  CHECK(in_time(std::chrono::seconds(60), [] { return 7; }) == 7);
  CHECK_THROWS_AS(in_time(std::chrono::seconds(60), []() -> int { throw std::runtime_error("no"); }),
                  std::runtime_error);
  std::promise<void> never;
  std::promise<void> ended;
  const auto hang = [until = never.get_future().share(), &ended] {
    until.wait();
    ended.set_value();
    return 7;
  };
  CHECK_FALSE(in_time(std::chrono::milliseconds(10), hang).has_value());
  never.set_value();
  ended.get_future().wait();  // before what it refers to goes
}

}  // namespace layerprobe
