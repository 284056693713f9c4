#include "base/json.h"

#include <doctest/doctest.h>

#include <cmath>

#include "base/error.h"

namespace layerprobe {

TEST_CASE("parse keeps kinds, order and text") {
  const Json json = Json::parse(R"({"b": 1, "a": [1.5, true, null, "\u00e9"], "big": 18446744073709551615})", "x.json");
  REQUIRE(json.members().size() == 3);
  CHECK(json.members()[0].first == "b");
  CHECK(json.find("b")->integer() == 1);
  const Json::Array& items = json.find("a")->items();
  CHECK(items[0].number() == 1.5);
  CHECK(items[1].boolean());
  CHECK(items[2].is_null());
  CHECK(items[3].string() == "\xc3\xa9");
  CHECK_FALSE(json.find("big")->is_integer());
  CHECK(json.find("none") == nullptr);
}

TEST_CASE("parse names the file and the place of what it refuses") {
  CHECK_THROWS_WITH_AS(Json::parse("{\"a\": 1,}", "config.json"), doctest::Contains("config.json: not valid JSON at"),
                       Error);
  CHECK_THROWS_WITH_AS(Json::parse("{\"a\": 1, \"a\": 2}", "config.json"), doctest::Contains("stands twice"), Error);
  std::string wide = "{\"0\": 0";
  for (int i = 1; i < 100; ++i) wide += ", \"" + std::to_string(i) + "\": 0";
  CHECK(Json::parse(wide + "}", "x").members().size() == 100);
  for (const char* name : {"0", "50", "99"}) {
    CHECK_THROWS_WITH_AS(Json::parse(wide + ", \"" + name + "\": 0}", "x"), doctest::Contains("stands twice"), Error);
  }
  CHECK_THROWS_WITH_AS(Json::parse(std::string(101, '['), "x"), doctest::Contains("nested deeper"), Error);
  CHECK_THROWS_AS(Json::parse("", "x"), Error);
  std::string many = "[0";
  for (int i = 0; i < 5'000'000; ++i) many += ",0";
  CHECK_THROWS_WITH_AS(Json::parse(many + "]", "x"), doctest::Contains("holds more than 5000000 values"), Error);
  CHECK_THROWS_AS(Json::parse("{\"a\": \"\xff\"}", "x"), Error);
  CHECK_THROWS_AS(Json::parse("1e999", "x"), Error);
}

TEST_CASE("text over 100 MB is refused before it is parsed") {
  CHECK_THROWS_WITH_AS(Json::parse(std::string(100'000'001, ' '), "x"),
                       doctest::Contains("x: JSON of 100000001 bytes; at most 100000000 are read"), Error);
}

TEST_CASE("dump writes what parse reads") {
  Json json;
  json.set("name", "lay\"er");
  json.set("values", Json::Array{Json(1), Json(2.5), Json(std::nan(""))});
  CHECK(json.dump() == R"({"name":"lay\"er","values":[1,2.5,"NaN"]})");
}

}  // namespace layerprobe
