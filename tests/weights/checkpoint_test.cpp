#include "weights/checkpoint.h"

#include <doctest/doctest.h>

#include <vector>

#include "base/error.h"
#include "tests/support/fetched.h"
#include "tests/support/model_files.h"

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

TEST_CASE("a base-model export gets its leading model. back, and only where it is missing") {
  const auto names_in = [](const std::vector<std::string>& stored) {
    std::string header;
    for (const std::string& name : stored) {
      header += (header.empty() ? "\"" : ",\"") + name + R"(": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]})";
    }
    const test::TempFolder folder;
    folder.write("config.json", "{}");
    folder.write("model.safetensors", test::safetensors("{" + header + "}", ""));
    const Checkpoint checkpoint = Checkpoint::open(folder.path().string());
    std::vector<std::string> names;
    for (const TensorInfo& tensor : checkpoint.tensors()) names.push_back(tensor.name);
    return names;
  };
  CHECK(names_in({"embed_tokens.weight", "layers.0.self_attn.rotary_emb.inv_freq", "norm.weight", "lm_head.weight"}) ==
        std::vector<std::string>{"lm_head.weight", "model.embed_tokens.weight",
                                 "model.layers.0.self_attn.rotary_emb.inv_freq", "model.norm.weight"});
  CHECK(names_in({"layers.0.extra", "model.norm.weight"}) ==
        std::vector<std::string>{"layers.0.extra", "model.norm.weight"});
}

TEST_CASE("a GGUF of a model has transformers' names and row order") {
  test::GgufBuilder builder = test::small_gguf();
  std::vector<float> rows(16);
  for (std::size_t i = 0; i < rows.size(); ++i) rows[i] = static_cast<float>(i);
  builder.tensor("token_embd.weight", {4, 3}, 0, std::string(48, '\0'));
  builder.tensor("blk.0.attn_k.weight", {4, 4}, 0, test::raw(rows));  // one key-value head of 4 rows
  const test::TempFolder folder;
  const Checkpoint checkpoint = Checkpoint::open(folder.write("tiny.gguf", builder.bytes()).string());
  CHECK(checkpoint.display_name() == "tiny");
  CHECK(values_of(checkpoint, "model.layers.0.self_attn.k_proj.weight") ==
        std::vector<float>{0, 1, 2, 3, 8, 9, 10, 11, 4, 5, 6, 7, 12, 13, 14, 15});
  CHECK(Json::parse(checkpoint.config_bytes(), "config").find("model_type")->string() == "llama");
}

TEST_CASE("a tensor that stands twice is refused, in one GGUF or in two shards") {
  const test::TempFolder folder;
  const std::string twice = test::small_gguf()
                                .u32("llama.vocab_size", 3)
                                .tensor("output_norm.weight", {4}, 0, std::string(16, '\0'))
                                .tensor("model.norm.weight", {4}, 0, std::string(16, '\0'))
                                .bytes();
  CHECK_THROWS_WITH_AS(Checkpoint::open(folder.write("twice.gguf", twice).string()),
                       doctest::Contains("tensor model.norm.weight stands twice (twice.gguf, twice.gguf)"), Error);

  const std::string shard = test::safetensors(R"({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})", "");
  const std::string other = test::safetensors(R"({"a": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]},
                                                  "b": {"dtype": "U8", "shape": [0], "data_offsets": [0, 0]}})",
                                              "");
  folder.write("config.json", "{}");
  folder.write("1.safetensors", shard);
  folder.write("2.safetensors", other);
  folder.write("model.safetensors.index.json", R"({"weight_map": {"a": "1.safetensors", "b": "2.safetensors"}})");
  CHECK_THROWS_WITH_AS(Checkpoint::open(folder.path().string()),
                       doctest::Contains("tensor a stands twice (1.safetensors, 2.safetensors)"), Error);
}

TEST_CASE("a model that is not there, and a folder without a config, are refused") {
  CHECK_THROWS_WITH_AS(Checkpoint::open("./no such model"),
                       doctest::Contains("./no such model: no such file or folder"), Error);
  CHECK_THROWS_WITH_AS(Checkpoint::open(""), doctest::Contains("no such file or folder"), Error);
  const test::TempFolder folder;
  folder.write("model.safetensors", test::safetensors("{}", ""));
  CHECK_THROWS_WITH_AS(Checkpoint::open(folder.path().string()), doctest::Contains("config.json: no such file"), Error);
  folder.write("config.json", "[]");
  CHECK_THROWS_WITH_AS(Checkpoint::open(folder.path().string()),
                       doctest::Contains("config.json: is of kind array; an object is due"), Error);
}

TEST_CASE("the hash changes with config, names, storages and shapes, and not with values or order") {
  const auto hash_of = [](const std::string& config, const std::string& tensors, const std::string& data) {
    const test::TempFolder folder;
    folder.write("config.json", config);
    folder.write("model.safetensors", test::safetensors("{" + tensors + "}", data));
    return Checkpoint::open(folder.path().string()).hash();
  };
  const std::string a = R"("a": {"dtype": "F16", "shape": [2], "data_offsets": [0, 4]})";
  const std::string b = R"("b": {"dtype": "U8", "shape": [1], "data_offsets": [4, 5]})";
  const std::string hash = hash_of("{}", a + "," + b, "12345");
  CHECK(hash.size() == 64);
  CHECK(hash == hash_of("{}", b + "," + a, "67890"));
  CHECK(hash != hash_of("{ }", a + "," + b, "12345"));
  CHECK(hash != hash_of("{}", a, "1234"));
  CHECK(hash_of("{}", a, "1234") !=
        hash_of("{}", R"("a": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]})", "1234"));
  CHECK(hash_of("{}", a, "1234") !=
        hash_of("{}", R"("a": {"dtype": "F16", "shape": [1, 2], "data_offsets": [0, 4]})", "1234"));
}

TEST_CASE("the sample's hash changes with the values of every tensor, and with nothing else") {
  const auto hash_of = [](const std::string& config, const std::string& data) {
    const test::TempFolder folder;
    folder.write("config.json", config);
    folder.write("model.safetensors",
                 test::safetensors(R"({"a": {"dtype": "U8", "shape": [1000], "data_offsets": [0, 1000]},
                                       "b": {"dtype": "U8", "shape": [0], "data_offsets": [1000, 1000]},
                                       "c": {"dtype": "U8", "shape": [3], "data_offsets": [1000, 1003]}})",
                                   data));
    return Checkpoint::open(folder.path().string()).sample_hash();
  };
  const auto changed = [](std::size_t at) {
    std::string data(1003, 'x');
    data[at] = 'y';
    return data;
  };
  const std::string hash = hash_of("{}", std::string(1003, 'x'));
  CHECK(hash.size() == 64);
  CHECK(hash == hash_of("{ }", std::string(1003, 'x')));
  CHECK(hash != hash_of("{}", changed(500)));
  CHECK(hash != hash_of("{}", changed(1002)));
  CHECK(hash == hash_of("{}", changed(0)));  // only the middle is looked at
}

TEST_CASE("a model is called as its folder, a cached one as its repository") {
  const test::TempFolder folder;
  for (const char* name : {"my-model/", "models--org--name/snapshots/0123/"}) {
    folder.write(std::string(name) + "config.json", "{}");
    folder.write(std::string(name) + "model.safetensors", test::safetensors("{}", ""));
  }
  CHECK(Checkpoint::open((folder.path() / "my-model/").string()).display_name() == "my-model");
  CHECK(Checkpoint::open((folder.path() / "models--org--name/snapshots/0123").string()).display_name() == "name");
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
