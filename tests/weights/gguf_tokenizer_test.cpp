#include "weights/gguf_tokenizer.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/support/model_files.h"
#include "weights/gguf_header.h"

namespace layerprobe::weights {
namespace {

using test::GgufBuilder;

GgufTokenizer tokenizer_of(const GgufBuilder& builder) {
  const test::TempFolder folder;
  const File file = File::open_for_reading(folder.write("m.gguf", builder.bytes()));
  return read_gguf_tokenizer(file, read_gguf_header(file, 0));
}

std::string types(const std::vector<std::int32_t>& items) {
  return test::raw(std::uint32_t{5}) + test::raw(std::uint64_t{items.size()}) + test::raw(items);
}

}  // namespace

TEST_CASE("a GGUF's vocabulary is read, long tokens across buffers too") {
  const std::string long_token(400'000, 'x');
  const GgufTokenizer tokenizer = tokenizer_of(GgufBuilder()
                                                   .text("tokenizer.ggml.model", "gpt2")
                                                   .text("tokenizer.ggml.pre", "qwen2")
                                                   .strings("tokenizer.ggml.tokens", {"a", long_token, "", "d"})
                                                   .value("tokenizer.ggml.token_type", 9, types({1, 1, 3, 4}))
                                                   .strings("tokenizer.ggml.merges", {"a d"})
                                                   .u32("tokenizer.ggml.bos_token_id", 2)
                                                   .value("tokenizer.ggml.add_bos_token", 7, std::string(1, '\1')));
  CHECK(tokenizer.model == "gpt2");
  CHECK(tokenizer.pre == "qwen2");
  CHECK(tokenizer.tokens == std::vector<std::string>{"a", long_token, "", "d"});
  CHECK(tokenizer.token_types == std::vector<std::int32_t>{1, 1, 3, 4});
  CHECK(tokenizer.merges == std::vector<std::string>{"a d"});
  CHECK(tokenizer.bos_token_id == 2);
  CHECK(tokenizer.eos_token_id == -1);
  CHECK(tokenizer.add_bos_token == true);
}

TEST_CASE("a GGUF without a vocabulary gives an empty one") {
  const GgufTokenizer tokenizer = tokenizer_of(GgufBuilder());
  CHECK(tokenizer.model.empty());
  CHECK(tokenizer.tokens.empty());
  CHECK_FALSE(tokenizer.add_bos_token.has_value());
}

TEST_CASE("tokenizer keys of another type are refused by name") {
  CHECK_THROWS_WITH_AS(tokenizer_of(GgufBuilder().u32("tokenizer.ggml.model", 1)),
                       doctest::Contains("key tokenizer.ggml.model: is of kind integer; a string is due"), Error);
  CHECK_THROWS_WITH_AS(tokenizer_of(GgufBuilder().value("tokenizer.ggml.tokens", 9, types({1}))),
                       doctest::Contains("key tokenizer.ggml.tokens: is no array of strings"), Error);
  CHECK_THROWS_WITH_AS(tokenizer_of(GgufBuilder().strings("tokenizer.ggml.token_type", {"a"})),
                       doctest::Contains("key tokenizer.ggml.token_type: is no array of 32-bit integers"), Error);
  CHECK_THROWS_WITH_AS(tokenizer_of(GgufBuilder().u32("tokenizer.ggml.add_bos_token", 1)),
                       doctest::Contains("key tokenizer.ggml.add_bos_token: is of kind integer; a boolean is due"),
                       Error);
}

TEST_CASE("a vocabulary of more than five million strings is refused") {
  const std::uint64_t count = 5'000'001;
  CHECK_THROWS_WITH_AS(
      tokenizer_of(GgufBuilder().value("tokenizer.ggml.merges", 9,
                                       test::raw(8u) + test::raw(count) + std::string(8 * count, '\0'))),
      doctest::Contains("key tokenizer.ggml.merges: has 5000001 strings; at most 5000000 are read"), Error);
}

TEST_CASE("token types and ids that do not fit the tokens are refused") {
  CHECK_THROWS_WITH_AS(
      tokenizer_of(
          GgufBuilder().strings("tokenizer.ggml.tokens", {"a"}).value("tokenizer.ggml.token_type", 9, types({1, 1}))),
      doctest::Contains("has 2 items for 1 tokens"), Error);
  CHECK_THROWS_WITH_AS(
      tokenizer_of(GgufBuilder().strings("tokenizer.ggml.tokens", {"a"}).u32("tokenizer.ggml.bos_token_id", 1)),
      doctest::Contains("key tokenizer.ggml.bos_token_id: is 1; there are 1 tokens"), Error);
}

}  // namespace layerprobe::weights
