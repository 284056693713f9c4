#include "plan/selection.h"

#include <doctest/doctest.h>

#include "base/error.h"

namespace layerprobe::plan {
namespace {

using Layers = std::vector<std::int64_t>;

Prompts prompts_of(std::initializer_list<std::int64_t> lengths) {
  Prompts prompts;
  prompts.cu_seqlens.push_back(0);
  for (const std::int64_t length : lengths) prompts.cu_seqlens.push_back(prompts.cu_seqlens.back() + length);
  return prompts;
}

}  // namespace

TEST_CASE("layers are read as numbers, ranges and from the end") {
  CHECK(parse_layers("3", 8) == Layers{3});
  CHECK(parse_layers("0-2", 8) == Layers{0, 1, 2});
  CHECK(parse_layers("0, 7,-1,3", 8) == Layers{0, 3, 7});
  CHECK(parse_layers("-3--1", 8) == Layers{5, 6, 7});
  for (const char* bad : {"", "8", "-9", "a", "3-1", "1,,2", "1-", "99999999999999999999", "-9223372036854775808",
                          "9223372036854775807", "0-9223372036854775807"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(parse_layers(bad, 8), doctest::Contains("--layers"), Error);
  }
}

TEST_CASE("token selections keep the rows that a Python slice would") {
  const Prompts prompts = prompts_of({5, 1, 3});
  const auto rows = [&](const char* selection) { return select_rows(parse_tokens(selection), prompts); };
  CHECK(rows("all").position == std::vector<std::int32_t>{0, 1, 2, 3, 4, 0, 0, 1, 2});
  CHECK(rows("all").cu_rows == prompts.cu_seqlens);
  CHECK(rows("last").position == std::vector<std::int32_t>{4, 0, 2});
  CHECK(rows("mean").position == std::vector<std::int32_t>{-1, -1, -1});
  CHECK(rows("1::2").position == std::vector<std::int32_t>{1, 3, 1});
  CHECK(rows("1::2").cu_rows == std::vector<std::int64_t>{0, 2, 2, 3});
  CHECK(rows("-2:").position == std::vector<std::int32_t>{3, 4, 0, 1, 2});
  CHECK(rows(":9223372036854775807:9223372036854775807").position == std::vector<std::int32_t>{0, 0, 0});
  for (const char* bad : {"", "first", "1:2:3:4", "a:", "::0", "::-1"}) {
    CAPTURE(bad);
    CHECK_THROWS_WITH_AS(parse_tokens(bad), doctest::Contains("--tokens"), Error);
  }
}

TEST_CASE("a pattern without a point is told with what comes near") {
  const std::vector<ProbePoint> all = {{"model.embed_tokens"}, {"model.layers.0"}, {"model.layers.0.mlp"}, {"lm_head"}};
  const std::vector<ProbePoint> available(all.begin(), all.end() - 1);
  const std::vector<std::string> layers = {"model.layers.*", "**.mlp"};
  const std::vector<ProbePoint> chosen = select_points(layers, available, all, "extract-all");
  REQUIRE(chosen.size() == 2);
  CHECK(chosen[0].name == "model.layers.0");
  CHECK(chosen[1].name == "model.layers.0.mlp");
  const std::vector<std::string> slip = {"model.layers.0.mpl"}, head = {"lm_head"};
  CHECK_THROWS_WITH_AS(select_points(slip, available, all, "extract-all"),
                       doctest::Contains("did you mean model.layers.0.mlp"), Error);
  CHECK_THROWS_WITH_AS(select_points(head, available, all, "extract-all"), doctest::Contains("use --test-type full"),
                       Error);
}

}  // namespace layerprobe::plan
