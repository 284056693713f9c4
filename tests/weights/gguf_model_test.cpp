#include "weights/gguf_model.h"

#include <doctest/doctest.h>

#include "base/error.h"
#include "tests/support/model_files.h"

namespace layerprobe::weights {
namespace {

using test::GgufBuilder;
using test::small_gguf;

constexpr std::uint32_t kF32 = 0;

GgufHeader header_of(const GgufBuilder& builder) {
  const test::TempFolder folder;
  return read_gguf_header(File::open_for_reading(folder.write("m.gguf", builder.bytes())), 0);
}

Json config_of(const GgufBuilder& builder) {
  const GgufHeader header = header_of(builder);
  return gguf_config(header, header.tensors, "m.gguf");
}

GgufBuilder with_embedding(GgufBuilder builder) {
  return builder.tensor("token_embd.weight", {4, 3}, kF32, std::string(48, '\0'));
}

std::vector<TensorInfo> renamed(const GgufBuilder& builder) {
  GgufHeader header = header_of(builder);
  const Json config = gguf_config(header, header.tensors, "m.gguf");
  use_transformers_names(header.tensors, header, config, "m.gguf");
  return header.tensors;
}

}  // namespace

TEST_CASE("a GGUF's config says what config.json would") {
  const Json config = config_of(with_embedding(small_gguf("qwen3").u32("qwen3.attention.key_length", 8)));
  CHECK(config.dump() ==
        R"({"architectures":["Qwen3ForCausalLM"],"model_type":"qwen3","hidden_act":"silu","hidden_size":4,)"
        R"("intermediate_size":6,"num_hidden_layers":1,"num_attention_heads":2,"num_key_value_heads":1,"head_dim":8,)"
        R"("rms_norm_eps":1e-05,"vocab_size":3,"max_position_embeddings":16,"rope_theta":10000.0,)"
        R"("tie_word_embeddings":true,"torch_dtype":"bfloat16"})");
}

TEST_CASE("keys that may be absent have llama.cpp's defaults") {
  const Json config =
      config_of(with_embedding(small_gguf().u32("llama.vocab_size", 5).f32("llama.rope.freq_base", 5e5f)));
  CHECK(config.find("head_dim")->integer() == 2);
  CHECK(config.find("vocab_size")->integer() == 5);
  CHECK(config.find("rope_theta")->number() == 5e5);
  CHECK(config.find("rope_scaling") == nullptr);
  CHECK(config.find("attention_bias") == nullptr);
  CHECK(config.find("sliding_window") == nullptr);
}

TEST_CASE("tensors decide on tied embeddings and biases") {
  const Json config = config_of(with_embedding(small_gguf())
                                    .tensor("output.weight", {4, 3}, kF32, std::string(48, '\0'))
                                    .tensor("blk.0.attn_q.bias", {4}, kF32, std::string(16, '\0')));
  CHECK_FALSE(config.find("tie_word_embeddings")->boolean());
  CHECK(config.find("attention_bias")->boolean());
}

TEST_CASE("a llama file with a sliding window is a Mistral") {
  const Json config = config_of(with_embedding(small_gguf().u32("llama.attention.sliding_window", 7)));
  CHECK(config.find("model_type")->string() == "mistral");
  CHECK(config.find("architectures")->items().front().string() == "MistralForCausalLM");
  CHECK(config.find("sliding_window")->integer() == 7);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf("qwen2").u32("qwen2.attention.sliding_window", 7))),
                       doctest::Contains("key qwen2.attention.sliding_window: is supported in llama files only"),
                       Error);
}

TEST_CASE("rope scaling is told in config.json's words") {
  const Json yarn = config_of(with_embedding(small_gguf()
                                                 .text("llama.rope.scaling.type", "yarn")
                                                 .f32("llama.rope.scaling.factor", 4.0f)
                                                 .u32("llama.rope.scaling.original_context_length", 4096)
                                                 .f32("llama.rope.scaling.yarn_beta_fast", 16.0f)));
  CHECK(yarn.find("rope_scaling")->dump() ==
        R"({"type":"yarn","factor":4.0,"original_max_position_embeddings":4096,"beta_fast":16.0})");
  const Json old_linear = config_of(with_embedding(small_gguf().f32("llama.rope.scale_linear", 2.5f)));
  CHECK(old_linear.find("rope_scaling")->dump() == R"({"type":"linear","factor":2.5})");
  CHECK(config_of(with_embedding(small_gguf().text("llama.rope.scaling.type", "none"))).find("rope_scaling") ==
        nullptr);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().text("llama.rope.scaling.type", "longrope"))),
                       doctest::Contains("is \"longrope\"; supported are none, linear, yarn"), Error);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().text("llama.rope.scaling.type", "linear"))),
                       doctest::Contains("key llama.rope.scaling.factor: is missing"), Error);
}

TEST_CASE("an architecture that is not supported is refused with those that are") {
  CHECK_THROWS_WITH_AS(
      config_of(small_gguf("gemma3")),
      doctest::Contains("m.gguf: architecture gemma3 is not supported\n  help: supported in GGUF: llama"), Error);
  CHECK_THROWS_WITH_AS(config_of(GgufBuilder()), doctest::Contains("has no general.architecture"), Error);
}

TEST_CASE("a key of the architecture that is not known is refused by name") {
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().f32("llama.logit_scale", 0.5f))),
                       doctest::Contains("key llama.logit_scale: is not known"), Error);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().strings("llama.layer_kinds", {"a"}))),
                       doctest::Contains("key llama.layer_kinds: is not known"), Error);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().u32("llama.expert_count", 8))),
                       doctest::Contains("key llama.expert_count: is 8; only 0 is supported"), Error);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().u32("llama.rope.dimension_count", 1))),
                       doctest::Contains("key llama.rope.dimension_count: is 1; only 2 is supported"), Error);
}

TEST_CASE("a key that is missing, of another kind or out of range is refused by name") {
  CHECK_THROWS_WITH_AS(config_of(GgufBuilder().text("general.architecture", "llama")),
                       doctest::Contains("key llama.embedding_length: is missing"), Error);
  CHECK_THROWS_WITH_AS(config_of(small_gguf()), doctest::Contains("key llama.vocab_size: is missing"), Error);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().u32("llama.attention.key_length", 0))),
                       doctest::Contains("key llama.attention.key_length: is 0; a size from 1 to 2^31 is due"), Error);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().text("llama.rope.freq_base", "high"))),
                       doctest::Contains("key llama.rope.freq_base: is \"high\"; a positive number is due"), Error);
}

TEST_CASE("head counts that differ from layer to layer are refused, equal ones are not") {
  const auto counts = [](std::uint32_t first, std::uint32_t second) {
    return test::raw(std::uint32_t{4}) + test::raw(std::uint64_t{2}) + test::raw(std::vector{first, second});
  };
  CHECK(config_of(with_embedding(small_gguf().value("llama.attention.key_length", 9, counts(6, 6))))
            .find("head_dim")
            ->integer() == 6);
  CHECK_THROWS_WITH_AS(config_of(with_embedding(small_gguf().value("llama.attention.key_length", 9, counts(6, 8)))),
                       doctest::Contains("differs from layer to layer"), Error);
}

TEST_CASE("every tensor of a decoder gets transformers' name") {
  const std::vector<std::pair<const char*, const char*>> names = {
      {"token_embd.weight", "model.embed_tokens.weight"},
      {"output_norm.weight", "model.norm.weight"},
      {"output.weight", "lm_head.weight"},
      {"blk.0.attn_norm.weight", "model.layers.0.input_layernorm.weight"},
      {"blk.0.attn_q.bias", "model.layers.0.self_attn.q_proj.bias"},
      {"blk.0.attn_k.weight", "model.layers.0.self_attn.k_proj.weight"},
      {"blk.0.attn_v.weight", "model.layers.0.self_attn.v_proj.weight"},
      {"blk.0.attn_output.weight", "model.layers.0.self_attn.o_proj.weight"},
      {"blk.0.attn_q_norm.weight", "model.layers.0.self_attn.q_norm.weight"},
      {"blk.0.attn_k_norm.weight", "model.layers.0.self_attn.k_norm.weight"},
      {"blk.12.ffn_norm.weight", "model.layers.12.post_attention_layernorm.weight"},
      {"blk.12.ffn_gate.weight", "model.layers.12.mlp.gate_proj.weight"},
      {"blk.12.ffn_up.weight", "model.layers.12.mlp.up_proj.weight"},
      {"blk.12.ffn_down.weight", "model.layers.12.mlp.down_proj.weight"},
      {"rope_freqs.weight", "rope_freqs.weight"},
      {"blk.0.ffn_gate_inp.weight", "blk.0.ffn_gate_inp.weight"},
  };
  GgufBuilder builder = small_gguf("qwen3").u32("qwen3.vocab_size", 3);
  for (const auto& [from, to] : names) builder.tensor(from, {4}, kF32, std::string(16, '\0'));
  const std::vector<TensorInfo> tensors = renamed(builder);
  REQUIRE(tensors.size() == names.size());
  for (std::size_t i = 0; i < names.size(); ++i) CHECK(tensors[i].name == names[i].second);
}

TEST_CASE("llama's q and k are marked as interleaved, other tensors and architectures are not") {
  const auto heads_of = [](const std::string& architecture) {
    GgufBuilder builder = small_gguf(architecture).u32(architecture + ".vocab_size", 3);
    builder.tensor("blk.0.attn_q.weight", {4, 4}, kF32, std::string(64, '\0'));
    builder.tensor("blk.0.attn_k.bias", {2}, kF32, std::string(8, '\0'));
    builder.tensor("blk.0.attn_v.weight", {4, 2}, kF32, std::string(32, '\0'));
    std::vector<std::int64_t> heads;
    for (const TensorInfo& tensor : renamed(builder)) heads.push_back(tensor.interleaved_heads);
    return heads;
  };
  CHECK(heads_of("llama") == std::vector<std::int64_t>{2, 1, 0});
  CHECK(heads_of("qwen2") == std::vector<std::int64_t>{0, 0, 0});
}

TEST_CASE("a bias in blocks is refused where its values have to change places") {
  constexpr std::uint32_t kQ8 = 8;
  GgufBuilder builder = small_gguf().u32("llama.vocab_size", 3);
  builder.tensor("blk.0.attn_q.bias", {32}, kQ8, std::string(34, '\0'));
  CHECK_THROWS_WITH_AS(renamed(builder),
                       doctest::Contains("tensor model.layers.0.self_attn.q_proj.bias: is one row of Q8_0 blocks"),
                       Error);
}

TEST_CASE("q rows that are no whole heads are refused") {
  GgufBuilder builder = small_gguf().u32("llama.vocab_size", 3);
  builder.tensor("blk.0.attn_q.weight", {4, 6}, kF32, std::string(96, '\0'));
  CHECK_THROWS_WITH_AS(renamed(builder),
                       doctest::Contains("tensor model.layers.0.self_attn.q_proj.weight: 6 rows are no 2 heads"),
                       Error);
}

}  // namespace layerprobe::weights
