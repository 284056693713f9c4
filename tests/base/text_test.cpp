#include "base/text.h"

#include <doctest/doctest.h>

namespace layerprobe {

TEST_CASE("nearest_names finds slips of the finger and parts") {
  const std::vector<std::string> names = {"model.norm", "model.embed_tokens", "lm_head"};
  CHECK(nearest_names("model.nrom", names) == std::vector<std::string>{"model.norm"});
  CHECK(nearest_names("norm", names) == std::vector<std::string>{"model.norm"});
  CHECK(nearest_names("zzzzzz", names).empty());
}

TEST_CASE("split keeps empty pieces") {
  CHECK(split("a,,b", ',') == std::vector<std::string>{"a", "", "b"});
  CHECK(split("", ',') == std::vector<std::string>{""});
}

}  // namespace layerprobe
