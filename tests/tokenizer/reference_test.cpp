#include <doctest/doctest.h>

#include "tests/tokenizer/corpus.h"

namespace layerprobe {

using tokenizer::Tokenizer;

TEST_CASE("small tokenizers of every family give the ids of the tokenizers package") {
  for (const char* name : {"llama3", "qwen2", "minimax", "deepseek", "gpt2", "smollm"}) {
    test::check_corpus(Tokenizer::from_folder(test::tokenizer_data(name)), name);
  }
}

TEST_CASE("every behaviour of Split and every construct of patterns give the ids of the tokenizers package") {
  test::check_corpus(Tokenizer::from_folder(test::tokenizer_data("splits")), "splits");
}

}  // namespace layerprobe
