#include <doctest/doctest.h>

#include "base/error.h"
#include "tokenizer/tokenizer.h"

namespace layerprobe::tokenizer {
namespace {

using Ids = std::vector<std::int32_t>;

GgufVocabulary small_vocabulary() {
  return {.model = "gpt2",
          .pre = "smollm",
          .tokens = {"<|im_start|>", "a", "b", "1", "2", "\u0120", "ab", "12", "\u0120a", "<think>", "aba"},
          .token_types = {3, 1, 1, 1, 1, 1, 1, 1, 1, 4, 1},
          .merges = {"a b", "1 2", "\u0120 a"},
          .bos_token_id = 0,
          .add_bos_token = {}};
}

Ids encode(const GgufVocabulary& vocabulary, const char* text) {
  return Tokenizer::from_gguf(vocabulary, "model.gguf").encode(text);
}

}  // namespace

TEST_CASE("smollm takes every digit alone, gpt-2 a run of them") {
  GgufVocabulary vocabulary = small_vocabulary();
  CHECK(encode(vocabulary, "ab 12 ab") == Ids{6, 5, 3, 4, 5, 6});
  for (const char* pre : {"gpt-2", "default", ""}) {
    vocabulary.pre = pre;
    CHECK(encode(vocabulary, "12") == Ids{7});
  }
}

TEST_CASE("control and user defined tokens are found in the text") {
  CHECK(encode(small_vocabulary(), "a<|im_start|><think>b") == Ids{1, 0, 9, 2});
}

TEST_CASE("BOS is added where the file says so, and for llama-bpe where it says nothing") {
  GgufVocabulary vocabulary = small_vocabulary();
  CHECK(encode(vocabulary, "a") == Ids{1});
  vocabulary.add_bos_token = true;
  CHECK(encode(vocabulary, "a") == Ids{0, 1});
  CHECK(Tokenizer::from_gguf(vocabulary, "x").encode("a", /*add_special_tokens=*/false) == Ids{1});
  vocabulary.pre = std::string("llama-bpe");
  vocabulary.add_bos_token = {};
  CHECK(encode(vocabulary, "a") == Ids{0, 1});
  vocabulary.add_bos_token = false;
  CHECK(encode(vocabulary, "a") == Ids{1});
  vocabulary.add_bos_token = true;
  for (const std::int64_t bos : {-1, 11}) {
    vocabulary.bos_token_id = bos;
    CHECK_THROWS_WITH_AS(encode(vocabulary, "a"), doctest::Contains("tokenizer.ggml.bos_token_id is "), Error);
  }
}

TEST_CASE("llama-bpe takes a piece that is a token as it is") {
  GgufVocabulary vocabulary = small_vocabulary();
  CHECK(encode(vocabulary, "aba") == Ids{6, 1});
  vocabulary.pre = std::string("llama-bpe");
  vocabulary.add_bos_token = false;
  CHECK(encode(vocabulary, "aba") == Ids{10});
}

TEST_CASE("qwen2 normalises to form C") {
  GgufVocabulary vocabulary = small_vocabulary();
  vocabulary.pre = std::string("qwen2");
  vocabulary.tokens = {"\u00c3", "\u00a9", "e"};  // the bytes of U+00E9
  vocabulary.token_types = {1, 1, 1};
  vocabulary.merges = {};
  CHECK(encode(vocabulary, "e\u0301") == Ids{0, 1});
}

TEST_CASE("every pre-tokenizer that an error offers is there") {
  GgufVocabulary vocabulary = small_vocabulary();
  vocabulary.pre = std::string("klingon");
  std::string message;
  try {
    encode(vocabulary, "a");
  } catch (const Error& error) {
    message = error.parts().what;
  }
  REQUIRE(message.starts_with("tokenizer.ggml.pre is \"klingon\"; known are default, gpt-2, "));
  std::size_t begin = message.find("default");
  while (begin < message.size()) {
    const std::size_t end = std::min(message.find(", ", begin), message.size());
    vocabulary.pre = message.substr(begin, end - begin);
    CAPTURE(vocabulary.pre);
    CHECK(encode(vocabulary, "a").back() == 1);
    begin = end + 2;
  }
}

TEST_CASE("a vocabulary of another model, or that contradicts itself, is refused") {
  const auto refused = [](const GgufVocabulary& vocabulary, const char* words) {
    CHECK_THROWS_WITH_AS(Tokenizer::from_gguf(vocabulary, "model.gguf"), doctest::Contains(words), Error);
  };
  GgufVocabulary vocabulary = small_vocabulary();
  vocabulary.model = std::string("llama");
  refused(vocabulary, "model.gguf: tokenizer.ggml.model is \"llama\" (SentencePiece); only \"gpt2\"");
  vocabulary.model = std::string("bert");
  refused(vocabulary, "tokenizer.ggml.model is \"bert\"; only \"gpt2\"");
  vocabulary = small_vocabulary();
  vocabulary.token_types.pop_back();
  refused(vocabulary, "tokenizer.ggml.token_type has 10 entries, tokenizer.ggml.tokens 11");
  vocabulary = small_vocabulary();
  vocabulary.merges[1] = std::string("a b c");
  refused(vocabulary, "tokenizer.ggml.merges[1] is \"a b c\", not two tokens");
  vocabulary.merges[1] = std::string("b a");
  refused(vocabulary, "a merge needs the token \"ba\"");
  vocabulary = small_vocabulary();
  vocabulary.tokens[3] = std::string("a");
  refused(vocabulary, "the token \"a\" stands twice");
}

}  // namespace layerprobe::tokenizer
