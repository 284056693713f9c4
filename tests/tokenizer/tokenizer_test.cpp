#include "tokenizer/tokenizer.h"

#include <doctest/doctest.h>

#include <thread>

#include "tests/tokenizer/corpus.h"
#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {

TEST_CASE("a token's text is its bytes, an added token's its content, and no token's nothing") {
  const Tokenizer tokenizer = Tokenizer::from_folder(test::tokenizer_data("llama3"));
  CHECK(tokenizer.token_text(tokenizer.encode(" ", false).at(0)) == " ");
  CHECK(tokenizer.token_text(tokenizer.encode("\xf0\x9f\xa6\x92", false).at(0)).at(0) == '\xf0');  // not UTF-8 alone
  CHECK(tokenizer.token_text(tokenizer.encode("<|eot_id|>", false).at(0)) == "<|eot_id|>");
  CHECK(tokenizer.token_text(-1) == "");
  CHECK(tokenizer.token_text(1'000'000) == "");
  CHECK(tokenizer.vocab_size() == 902);
  CHECK(tokenizer.token_text(901) != "");
}

TEST_CASE("decode gives the text back, with U+FFFD for what is no UTF-8, and keeps added tokens") {
  for (const char* name : {"llama3", "minimax", "deepseek", "smollm"}) {  // which neither normalise nor drop anything
    const Tokenizer tokenizer = Tokenizer::from_folder(test::tokenizer_data(name));
    for (const std::string& text : test::corpus()) {
      REQUIRE(tokenizer.decode(tokenizer.encode(text, false)) == encode_utf8(decode_utf8(text)));
    }
  }
  const Tokenizer tokenizer = Tokenizer::from_folder(test::tokenizer_data("llama3"));
  CHECK(tokenizer.decode(tokenizer.encode("<|eot_id|>a")) == "<|begin_of_text|><|eot_id|>a");
  std::vector<std::int32_t> ids = tokenizer.encode("\xf0\x9f\xa6\x92", false);
  ids.pop_back();
  CHECK(tokenizer.decode(ids) == "\ufffd");
}

TEST_CASE("threads may encode at the same time") {
  const Tokenizer tokenizer = Tokenizer::from_folder(test::tokenizer_data("qwen2"));
  std::vector<std::vector<std::int32_t>> expected;
  for (const std::string& text : test::corpus()) expected.push_back(tokenizer.encode(text));
  std::vector<int> differing(4, 0);
  std::vector<std::thread> threads;
  for (int& count : differing) {
    threads.emplace_back([&] {
      for (std::size_t i = 0; i < expected.size(); i += 3) count += tokenizer.encode(test::corpus()[i]) != expected[i];
    });
  }
  for (std::thread& thread : threads) thread.join();
  CHECK(differing == std::vector<int>(4, 0));
}

}  // namespace layerprobe::tokenizer
