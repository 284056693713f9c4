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

TEST_CASE("is_utf8 knows overlong forms, surrogates and cut-off characters") {
  for (const char* good :
       {"", "a", "\xc3\xa9", "\xe2\x82\xac", "\xf0\x9f\x99\x82", "\xf4\x8f\xbf\xbf", "\xed\x9f\xbf"}) {
    CAPTURE(good);
    CHECK(is_utf8(good));
  }
  for (const char* bad : {"\x80", "\xc3", "\xc1\xbf", "\xe0\x9f\xbf", "\xed\xa0\x80", "\xf0\x8f\xbf\xbf",
                          "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xc3\x28"}) {
    CAPTURE(bad);
    CHECK_FALSE(is_utf8(bad));
  }
}

}  // namespace layerprobe
