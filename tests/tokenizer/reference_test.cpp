#include <doctest/doctest.h>

#include <filesystem>

#include "tests/support/fetched.h"
#include "tests/support/temp_folder.h"
#include "tests/tokenizer/corpus.h"
#include "weights/checkpoint.h"

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

TEST_CASE("DeepSeek's own tokenizer.json gives the ids of the tokenizers package") {
  const test::TempFolder folder;
  std::filesystem::copy_file(test::deepseek_tokenizer(), folder.path() / "tokenizer.json");
  test::check_corpus(Tokenizer::from_folder(folder.path()), "deepseek-real");
}

TEST_CASE("SmolLM2's vocabulary in a GGUF gives the ids of the tokenizers package") {
  const weights::Checkpoint checkpoint = weights::Checkpoint::open(test::demo_model().string());
  const weights::Checkpoint::GgufTokenizer stored = checkpoint.gguf_tokenizer().value();
  const tokenizer::GgufVocabulary vocabulary = {.model = stored.model,
                                                .pre = stored.pre,
                                                .tokens = stored.tokens,
                                                .token_types = stored.token_types,
                                                .merges = stored.merges,
                                                .bos_token_id = stored.bos_token_id,
                                                .add_bos_token = stored.add_bos_token};
  test::check_corpus(Tokenizer::from_gguf(vocabulary, "SmolLM2"), "smollm2-gguf");
}

}  // namespace layerprobe
