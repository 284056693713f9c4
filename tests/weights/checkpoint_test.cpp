#include "weights/checkpoint.h"

#include <doctest/doctest.h>

#include <vector>

#include "base/error.h"
#include "tests/support/fetched.h"
#include "tests/weights/model_files.h"

namespace layerprobe::weights {

namespace {

std::vector<float> values_of(const Checkpoint& checkpoint, const char* name) {
  const TensorInfo* tensor = checkpoint.find(name);
  REQUIRE(tensor != nullptr);
  std::vector<float> out(static_cast<std::size_t>(tensor->num_elements()), -1.0f);
  checkpoint.read(*tensor, Dtype::f32, out.data());
  return out;
}

}  // namespace

TEST_CASE("a folder's tensors come sorted by name, with their values") {
  const test::TempFolder folder;
  folder.write("config.json", R"({"model_type": "llama"})");
  folder.write("model.safetensors", test::safetensors(R"({"__metadata__": {"format": "pt"},
                                   "model.norm.weight": {"dtype": "F32", "shape": [2], "data_offsets": [4, 12]},
                                   "lm_head.weight": {"dtype": "BF16", "shape": [2, 1], "data_offsets": [0, 4]}})",
                                                      test::raw(std::vector<std::uint16_t>{0x3f80, 0xc000}) +
                                                          test::raw(std::vector<float>{0.5f, 3.0f})));
  const Checkpoint checkpoint = Checkpoint::open(folder.path().string());
  REQUIRE(checkpoint.tensors().size() == 2);
  CHECK(checkpoint.tensors()[0].name == "lm_head.weight");
  CHECK(checkpoint.tensors()[0].shape == std::vector<std::int64_t>{2, 1});
  CHECK(values_of(checkpoint, "lm_head.weight") == std::vector<float>{1.0f, -2.0f});
  CHECK(values_of(checkpoint, "model.norm.weight") == std::vector<float>{0.5f, 3.0f});
  CHECK(checkpoint.find("model.norm") == nullptr);
  CHECK(checkpoint.config().find("model_type")->string() == "llama");
  CHECK(checkpoint.config_bytes() == R"({"model_type": "llama"})");
  CHECK_FALSE(checkpoint.is_gguf());
  CHECK_FALSE(checkpoint.gguf_tokenizer().has_value());
}

TEST_CASE("the demo model opens as a Llama with 272 tensors and its tokenizer") {
  const Checkpoint checkpoint = Checkpoint::open(test::demo_model().string());
  CHECK(checkpoint.is_gguf());
  CHECK(checkpoint.display_name() == "SmolLM2-135M-Instruct.Q4_1");
  CHECK(checkpoint.tensors().size() == 272);
  CHECK(checkpoint.config().find("rms_norm_eps")->number() == 1e-5);
  CHECK(checkpoint.config().find("tie_word_embeddings")->boolean());
  const TensorInfo* k_proj = checkpoint.find("model.layers.29.self_attn.k_proj.weight");
  REQUIRE(k_proj != nullptr);
  CHECK(k_proj->shape == std::vector<std::int64_t>{192, 576});
  CHECK(k_proj->storage == Storage::q4_1);
  CHECK(k_proj->interleaved_heads == 3);
  const auto tokenizer = checkpoint.gguf_tokenizer();
  REQUIRE(tokenizer.has_value());
  CHECK(tokenizer->model == "gpt2");
  CHECK(tokenizer->pre == "smollm");
  CHECK(tokenizer->tokens.size() == 49152);
  CHECK(tokenizer->tokens[1] == "<|im_start|>");
  CHECK(tokenizer->token_types[1] == 3);
  CHECK(tokenizer->merges.size() == 48900);
  CHECK(tokenizer->merges[0] == "\xc4\xa0 t");
  CHECK(tokenizer->bos_token_id == 1);
  CHECK(tokenizer->eos_token_id == 2);
  CHECK(tokenizer->add_bos_token == false);
}

}  // namespace layerprobe::weights
