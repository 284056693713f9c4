#include "model/config.h"

#include <doctest/doctest.h>

#include <chrono>
#include <string>

#include "base/error.h"

namespace layerprobe::model {
namespace {

ModelConfig read(const std::string& text) { return read_config(Json::parse(text, "config.json"), "config.json"); }

/// A small llama with `more` members.
std::string llama(const std::string& more) {
  return R"({"model_type": "llama", "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 2)" +
         (more.empty() ? "" : ", " + more) + "}";
}
std::string of_type(const std::string& type, const std::string& more) {
  return R"({"model_type": ")" + type + R"(", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2,
             "head_dim": 16, "num_hidden_layers": 4)" +
         (more.empty() ? "" : ", " + more) + "}";
}

void refused(const std::string& config, const char* message) {
  CAPTURE(config);
  CHECK_THROWS_WITH_AS(read(config), doctest::Contains(message), Error);
}

}  // namespace

TEST_CASE("absent and null keys take transformers' defaults") {
  const ModelConfig config = read(llama(R"("head_dim": null, "num_key_value_heads": null)"));
  CHECK(config.head_dim == 16);
  CHECK(config.num_key_value_heads == 4);
  CHECK(config.rms_norm_eps == 1e-6);
  CHECK(config.rope.rope_theta == 10000);
  CHECK(config.rope.rope_type == "default");
  CHECK_FALSE(config.dtype.has_value());
  CHECK(read(R"({"model_type": "qwen3", "num_hidden_layers": 1})").head_dim == 128);
}

TEST_CASE("old and new spellings say the same") {
  const ModelConfig old_spelling =
      read(llama(R"("torch_dtype": "bfloat16", "rope_theta": 5e5, "rope_scaling": {"type": "linear", "factor": 4.0})"));
  const ModelConfig new_spelling = read(
      llama(R"("dtype": "bfloat16", "rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 5e5})"));
  for (const ModelConfig& config : {old_spelling, new_spelling}) {
    CHECK(config.dtype == Dtype::bf16);
    CHECK(config.rope.rope_type == "linear");
    CHECK(config.rope.rope_theta == 5e5);
    CHECK(config.rope.factor == 4.0);
  }
  CHECK(read(llama(R"("dtype": "float16", "torch_dtype": "float32")")).dtype == Dtype::f16);
  CHECK(read(llama(R"("rope_scaling": null, "rope_theta": 7.0)")).rope.rope_theta == 7);
}

TEST_CASE("a null truncate is false, an absent one true") {
  CHECK(read(llama(R"("rope_scaling": {"type": "yarn", "factor": 4})")).rope.truncate);
  CHECK_FALSE(read(llama(R"("rope_scaling": {"type": "yarn", "factor": 4, "truncate": null})")).rope.truncate);
}

TEST_CASE("a top-level original_max_position_embeddings wins, and max_position_embeddings stands in") {
  const std::string yarn =
      R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 10})";
  CHECK(read(llama(yarn)).rope.original_max_position_embeddings == 10);
  CHECK(read(llama(yarn + R"(, "original_max_position_embeddings": 20)")).rope.original_max_position_embeddings == 20);
  CHECK(read(llama(R"("rope_scaling": {"rope_type": "yarn", "factor": 4.0}, "max_position_embeddings": 30)"))
            .rope.original_max_position_embeddings == 30);
}

TEST_CASE("windows follow the family's rule") {
  CHECK(read(of_type("mistral", "")).sliding_window == std::vector<std::int64_t>(4, 4096));
  CHECK(read(of_type("mistral", R"("sliding_window": null)")).sliding_window == std::vector<std::int64_t>(4, 0));
  CHECK(read(of_type("qwen2", R"("sliding_window": 8)")).sliding_window == std::vector<std::int64_t>(4, 0));
  CHECK(read(of_type("qwen2", R"("sliding_window": 8, "use_sliding_window": true, "max_window_layers": 2)"))
            .sliding_window == std::vector<std::int64_t>{0, 0, 8, 8});
  CHECK(read(of_type("qwen3", R"("sliding_window": 8, "use_sliding_window": true, "layer_types":
        ["sliding_attention", "full_attention", "sliding_attention", "full_attention"])"))
            .sliding_window == std::vector<std::int64_t>{8, 0, 8, 0});
  CHECK(read(of_type("qwen3", R"("sliding_window": 8, "use_sliding_window": true, "layer_types":
        ["attention", "attention", "sliding_attention", "attention"])"))
            .sliding_window == std::vector<std::int64_t>{0, 0, 8, 0});
}

TEST_CASE("biases and norms follow the family") {
  const ModelConfig qwen2 = read(of_type("qwen2", ""));
  CHECK(qwen2.qkv_bias);
  CHECK_FALSE(qwen2.o_bias);
  const ModelConfig biased = read(llama(R"("attention_bias": true, "mlp_bias": true)"));
  CHECK(biased.qkv_bias);
  CHECK(biased.o_bias);
  CHECK(biased.mlp_bias);
  CHECK(read(of_type("qwen3", "")).qk_norm == QkNorm::per_head);
}

TEST_CASE("what is not understood is refused by name") {
  refused(R"({"model_type": "mamba"})", "model_type \"mamba\" is not supported\n  help: supported are llama, mistral");
  refused("[]", "is array where an object is expected");
  refused("{}", "has no model_type");
  refused(llama(R"("hidden_act": "gelu")"), "hidden_act: is \"gelu\"; only \"silu\"");
  refused(llama(R"("attention_multiplier": 0.5)"), "attention_multiplier: is 0.5: a key that is not known here");
  refused(llama(R"("quantization_config": {"quant_method": "gptq"})"),
          "quant_method: is \"gptq\", which is not supported");
  refused(llama(R"("rope_scaling": {"type": "su", "factor": 2})"), "rope_type: is \"su\"");
  refused(llama(R"("rope_scaling": {"type": "linear"})"), "factor: is missing");
  refused(llama(R"("rope_scaling": {"type": "linear", "factor": 2, "novel_factor": 3})"), "novel_factor: is not known");
  refused(llama(R"("partial_rotary_factor": 0.5)"), "partial_rotary_factor: is 0.5");
  refused(llama(R"("hidden_size_of_something": 3)"), "is not known here");
  refused(llama(R"("sliding_window": 16)"), "llama has no window");
  refused(llama(R"("layer_types": ["full_attention"])"), "is no array of num_hidden_layers = 2");
  refused(
      of_type("qwen2", R"("layer_types": ["sliding_attention", "full_attention", "full_attention", "full_attention"])"),
      "use_sliding_window is not true");
  refused(llama(R"("num_key_value_heads": 3)"), "does not divide num_attention_heads = 4");
  refused(llama(R"("head_dim": 15)"), "the rotation needs an even one");
  refused(llama(R"("rms_norm_eps": "small")"), "rms_norm_eps: is string (\"small\") where a number is expected");
  refused(llama(R"("vocab_size": 0)"), "vocab_size: is 0; expected 1 to");
  refused(llama(R"("intermediate_size": 1e300)"), "intermediate_size: is number");
  refused(llama(R"("dtype": "int8")"), "dtype: is \"int8\"");
  refused(llama(R"("is_causal": false)"), "is_causal: is false");
  refused(llama(R"("use_bidirectional": true)"), "use_bidirectional: is true: a key that is not known here");
  refused(of_type("mixtral", R"("scoring_func": "sigmoid")"), "scoring_func: is \"sigmoid\": a key that is not known");
  refused(of_type("qwen3", R"("rope_parameters": {"full_attention": {"rope_type": "default", "rope_theta": 1e6}})"),
          "rope_parameters: full_attention: is not known for rope_type \"default\"");
  refused(llama(R"("rope_scaling": {"rope_type": null, "factor": 2})"), "rope_scaling: rope_type: is null");
  refused(llama(R"("rope_parameters": {"rope_type": "default", "rope_theta": null})"), "rope_theta: is null");
  refused(llama(R"("head_dim": 2, "rope_scaling": {"type": "longrope", "short_factor": [1], "long_factor": [2],
                                                   "original_max_position_embeddings": 1})"),
          "original_max_position_embeddings: is 1; expected more than 1");
}

TEST_CASE("sizes that no model has are refused before anything is made of that size") {
  const auto with = [](const char* key, const char* value) {
    return std::string(R"({"model_type": "llama", ")") + key + "\": " + value + "}";
  };
  refused(with("num_hidden_layers", "1000000000000"), "num_hidden_layers: is 1000000000000; expected 1 to 100000");
  refused(with("num_hidden_layers", "-1"), "num_hidden_layers: is -1; expected 1 to 100000");
  refused(with("num_attention_heads", "9223372036854775807"),
          "num_attention_heads: is 9223372036854775807; expected 1 to 16777216");
  refused(with("num_key_value_heads", "9223372036854775807"), "num_key_value_heads: is 9223372036854775807");
  refused(with("hidden_size", "18446744073709551616"), "hidden_size: is number (1.8446744073709552e+19)");
  refused(with("head_dim", "65538"), "head_dim: is 65538; expected 1 to 65536");
  refused(with("vocab_size", "1e18"), "vocab_size: is number (1e+18) where an integer is expected");
  refused(R"({"model_type": "llama", "num_attention_heads": 16777216, "head_dim": 65536})",
          "num_attention_heads: times head_dim is out of range");
}

TEST_CASE("a config of a hundred thousand keys is read in time that grows with its length") {
  std::string keys = "\"k0\": 0";
  for (int i = 1; i < 100'000; ++i) keys += ", \"k" + std::to_string(i) + "\": 0";
  const auto start = std::chrono::steady_clock::now();
  CHECK(read(llama(keys)).unused_keys.size() == 100'000);
  CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));  // a quadratic reader takes longer
}

TEST_CASE("keys without influence are read over, others without effect are listed") {
  const ModelConfig config = read(llama(
      R"("bos_token_id": 1, "use_cache": true, "rope_interleaved": false, "license": "apache-2.0", "attn_cap": null)"));
  CHECK(config.unused_keys == std::vector<std::string>{"rope_interleaved", "license"});
  CHECK(read(llama(R"("attn_implementation": "flash_attention_2", "use_flash_attn": true,
                      "rope_scaling": {"type": "yarn", "factor": 4, "finetuned": true})"))
            .rope.rope_type == "yarn");
  CHECK(read(llama(R"("pretraining_tp": 2, "is_causal": true)")).unused_keys.empty());
  // As Qwen3-Coder and Qwen3-VL-30B-A3B say what their class does in any case.
  CHECK(read(of_type("qwen3_moe", R"("use_qk_norm": true)")).qk_norm == QkNorm::per_head);
  CHECK(read(R"({"model_type": "qwen3_vl_moe", "text_config": {"norm_topk_prob": true}})").unused_keys.empty());
}

TEST_CASE("experts have their keys and transformers' defaults") {
  const ModelConfig mixtral = read(R"({"model_type": "mixtral", "num_hidden_layers": 2})");
  REQUIRE(mixtral.experts.has_value());
  CHECK(mixtral.experts->num_experts == 8);
  CHECK(mixtral.experts->num_experts_per_tok == 2);
  CHECK(mixtral.experts->moe_intermediate_size == 14336);
  CHECK(mixtral.experts->router.normalizes);
  CHECK(mixtral.rope.rope_theta == 1e6);
  CHECK(mixtral.sliding_window[0] == 0);
  CHECK(read(R"({"model_type": "mixtral", "sliding_window": 9})").sliding_window[31] == 9);

  const ModelConfig qwen3 = read(of_type("qwen3_moe", R"("num_local_experts": 16, "mlp_only_layers": [1],
      "decoder_sparse_step": 2, "use_sliding_window": true, "sliding_window": 7)"));
  CHECK(qwen3.experts->num_experts == 16);
  CHECK(qwen3.experts->moe_intermediate_size == 768);
  CHECK_FALSE(qwen3.experts->router.normalizes);
  CHECK(qwen3.experts->router.rounds_weights);
  CHECK(qwen3.experts->in_layer == std::vector<bool>{false, false, false, true});
  CHECK(qwen3.has_dense_layers());
  CHECK(qwen3.sliding_window == std::vector<std::int64_t>{7, 7, 7, 7});
  CHECK_FALSE(read(of_type("qwen3_moe", R"("num_experts": 0)")).experts.has_value());
}

TEST_CASE("MiniMax-M2 rotates the part of a head that its config.json says") {
  const auto rotary_dim = [](const std::string& more) { return read(of_type("minimax_m2", more)).rotary_dim; };
  CHECK(rotary_dim(R"("rotary_dim": 8)") == 8);
  CHECK(rotary_dim(R"("partial_rotary_factor": 0.25)") == 4);
  CHECK(rotary_dim(R"("rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5})") == 8);
  CHECK(rotary_dim(R"("rotary_dim": 8, "rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5})") ==
        8);
  CHECK(read(R"({"model_type": "minimax", "architectures": ["MiniMaxM2ForCausalLM"], "rotary_dim": 64})").qk_norm ==
        QkNorm::flat);
  refused(of_type("minimax_m2", ""), "rotary_dim: is missing");
  refused(of_type("minimax_m2", R"("rotary_dim": 8, "partial_rotary_factor": 0.25)"), "rotary_dim: is 8 where");
  refused(of_type("minimax_m2", R"("rotary_dim": 7)"), "rotary_dim: is 7; expected an even number");
  refused(R"({"model_type": "minimax", "rotary_dim": 64})", "model_type \"minimax\" is not supported");
}

TEST_CASE("keys of experts that ask for other math are refused") {
  const auto minimax = [](const std::string& more) { return of_type("minimax_m2", R"("rotary_dim": 8, )" + more); };
  refused(minimax(R"("scoring_func": "softmax")"), "scoring_func: is \"softmax\"; minimax_m2 is supported with");
  refused(minimax(R"("attn_type_list": [1, 0, 1, 1])"), "attn_type_list: is [1,0,1,1]");
  refused(minimax(R"("shared_intermediate_size": 64)"), "shared_intermediate_size: is 64");
  refused(minimax(R"("use_qk_norm": false)"), "use_qk_norm: is false");
  refused(minimax(R"("layernorm_mlp_beta": 3.5)"), "layernorm_mlp_beta: is 3.5");
  refused(minimax(R"("num_experts": 4, "num_local_experts": 8)"), "num_experts: is 4 where num_local_experts is 8");
  refused(minimax(R"("num_experts_per_tok": 500)"), "num_experts_per_tok: is 500 where there are 256 experts");
  refused(of_type("qwen3_moe", R"("moe_layer_start_index": 3)"), "is not known here");
  refused(of_type("qwen3_moe", R"("shared_expert_intermediate_size": 3)"), "is not known here");
  refused(of_type("qwen3_moe", R"("use_qk_norm": false)"), "use_qk_norm: is false; qwen3_moe is supported with true");
  refused(R"({"model_type": "qwen3_vl_moe", "text_config": {"norm_topk_prob": false}})",
          "norm_topk_prob: is false; qwen3_vl_moe is supported with true");
}

TEST_CASE("DeepSeek-V3 has latent attention, groups of experts and a shared one") {
  const ModelConfig defaults = read(R"({"model_type": "deepseek_v3"})");
  REQUIRE(defaults.latent.has_value());
  CHECK(defaults.head_dim == 192);
  CHECK(defaults.rotary_dim == 64);
  CHECK(defaults.qkv_size() == 1536 + 576);
  CHECK(defaults.attention_size() == 128 * 128);
  CHECK(defaults.latent->rope_interleave);
  REQUIRE(defaults.experts.has_value());
  CHECK(defaults.experts->num_experts == 256);
  CHECK(defaults.experts->shared_intermediate_size == 2048);
  CHECK(defaults.experts->router.n_group == 8);
  CHECK(defaults.experts->router.topk_group == 4);
  CHECK(defaults.experts->router.normalizes);
  CHECK(defaults.experts->router.routed_scaling_factor == 2.5);
  CHECK(defaults.experts->router.dtype(Dtype::bf16) == Dtype::f32);
  CHECK_FALSE(defaults.has_experts(2));
  CHECK(defaults.has_experts(3));
  CHECK(defaults.num_mtp_layers == 1);

  const auto small = [](const std::string& more) {
    return R"({"model_type": "deepseek_v3", "hidden_size": 64, "num_attention_heads": 4, "num_key_value_heads": 4,
               "num_hidden_layers": 2, "n_routed_experts": 8, "num_experts_per_tok": 3)" +
           (more.empty() ? "" : ", " + more) + "}";
  };
  const ModelConfig other = read(small(R"("q_lora_rank": null, "v_head_dim": 20, "rope_interleave": false,
      "n_group": 2, "topk_group": 1, "n_shared_experts": 3, "first_k_dense_replace": 0, "head_dim": 7,
      "num_local_experts": 8, "norm_topk_prob": false, "attention_bias": true, "num_nextn_predict_layers": 0)"));
  CHECK(other.qkv_size() == 4 * 192 + 576);
  CHECK(other.attention_size() == 80);
  CHECK_FALSE(other.latent->rope_interleave);
  CHECK(other.experts->shared_intermediate_size == 3 * 2048);
  CHECK_FALSE(other.experts->router.normalizes);
  CHECK_FALSE(other.has_dense_layers());
  CHECK(other.qkv_bias);
  CHECK(other.num_mtp_layers == 0);
  const ModelConfig null = read(small(R"("n_group": 4, "first_k_dense_replace": 0, "norm_topk_prob": null)"));
  REQUIRE(null.experts);
  CHECK_FALSE(null.experts->router.normalizes);

  refused(small(R"("n_group": 3)"), "n_group: is 3 where there are 8 experts");
  refused(small(R"("n_group": 8)"), "n_group: is 8 where there are 8 experts");
  refused(small(R"("n_group": 4, "topk_group": 1)"), "topk_group: is 1 of 4 groups of 2 experts, of which a token");
  refused(small(R"("n_group": 4, "topk_group": 5)"), "topk_group: is 5 of 4 groups");
  refused(small(R"("num_local_experts": 4, "n_group": 4)"), "num_local_experts: is 4 where n_routed_experts is 8");
  refused(small(R"("n_group": 4, "topk_method": "greedy")"), "topk_method: is \"greedy\"; deepseek_v3 is supported");
  refused(small(R"("n_group": 4, "scoring_func": "softmax")"), "scoring_func: is \"softmax\"");
  refused(small(R"("n_group": 4, "moe_layer_freq": 2)"), "moe_layer_freq: is 2");
  refused(small(R"("qk_rope_head_dim": 7)"), "qk_rope_head_dim: is 7; the rotation needs an even one");
  refused(small(R"("kv_lora_rank": 0)"), "kv_lora_rank: is 0; expected 1 to");
  refused(R"({"model_type": "deepseek_v3", "num_attention_heads": 1024, "num_key_value_heads": 1024,
              "v_head_dim": 65536})",
          "num_attention_heads: times v_head_dim is out of range");
  refused(R"({"model_type": "deepseek_v3", "num_key_value_heads": 8})", "num_key_value_heads: is 8; with latent");
  refused(small(R"("n_group": 4, "rope_scaling": {"type": "yarn", "mscale_all_dim": 1.0})"), "factor: is missing");
  refused(small(R"("n_group": 4, "rope_scaling": {"type": "proportional"})"), "\"proportional\", which deepseek_v3");
}

TEST_CASE("the decoder of a vision-language model is read from text_config, or from the top") {
  const ModelConfig nested = read(R"({"model_type": "qwen3_vl", "vision_config": {"depth": 3, "hidden_act": "gelu"},
      "image_token_id": 7, "dtype": "bfloat16", "tie_word_embeddings": true, "text_config": {"model_type":
      "qwen3_vl_text", "hidden_size": 64, "num_hidden_layers": 2, "tie_word_embeddings": false, "dtype": "float32",
      "rope_scaling": {"rope_type": "default", "mrope_section": [24, 20, 20], "mrope_interleaved": true}}})");
  CHECK(nested.decoder == "model.language_model");
  CHECK(nested.hidden_size == 64);
  CHECK(nested.head_dim == 128);
  CHECK(nested.qk_norm == QkNorm::per_head);
  CHECK(nested.rope.rope_theta == 5e5);
  CHECK(nested.tie_word_embeddings);
  CHECK(nested.dtype == Dtype::bf16);
  CHECK(nested.unused_keys.empty());

  const ModelConfig flat = read(R"({"model_type": "qwen2_5_vl", "vision_config": {}, "vision_token_id": 5,
      "hidden_size": 64, "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2,
      "use_sliding_window": true, "sliding_window": 9, "max_window_layers": 2, "torch_dtype": "float16",
      "rope_theta": 1e4, "rope_scaling": {"type": "mrope", "mrope_section": [2, 3, 3]}})");
  CHECK(flat.head_dim == 16);
  CHECK(flat.qkv_bias);
  CHECK(flat.sliding_window == std::vector<std::int64_t>{0, 0, 9});
  CHECK(flat.rope.rope_type == "default");
  CHECK(flat.rope.rope_theta == 1e4);
  CHECK(flat.dtype == Dtype::f16);
  CHECK(read(R"({"model_type": "qwen2_5_vl", "text_config": {"tie_word_embeddings": true}})").tie_word_embeddings);
  CHECK_FALSE(
      read(R"({"model_type": "qwen3_vl_moe", "text_config": {"tie_word_embeddings": true}})").tie_word_embeddings);
  CHECK(read(R"({"model_type": "qwen3_vl_moe", "text_config": {}})").experts->router.normalizes);

  const ModelConfig twice = read(R"({"model_type": "qwen2_5_vl", "vision_config": {}, "hidden_size": 128,
      "sliding_window": 32768, "rms_norm_eps": 1e-3, "text_config": {"hidden_size": 64, "sliding_window": null,
      "num_attention_heads": 4, "num_hidden_layers": 3, "num_key_value_heads": 2, "rms_norm_eps": 1e-6}})");
  CHECK(twice.hidden_size == 64);
  CHECK(twice.rms_norm_eps == 1e-6);
  CHECK(twice.unused_keys.empty());

  refused(R"({"model_type": "qwen2_5_vl", "original_max_position_embeddings": 8})",
          "original_max_position_embeddings: is beside vision_config");
  refused(R"({"model_type": "qwen3_vl", "text_config": {}, "rope_theta": 3})", "config.json: rope_theta: is 3");
  refused(R"({"model_type": "qwen3_vl", "text_config": {"hidden_size": "wide"}})",
          "config.json: text_config: hidden_size: is string");
  refused(R"({"model_type": "qwen3_vl", "text_config": {"attn_cap": 3}})", "config.json: text_config: attn_cap: is 3");
  refused(R"({"model_type": "qwen3_vl", "text_config": {}, "attn_cap": 3})", "config.json: attn_cap: is 3");
  refused(R"({"model_type": "qwen3_vl", "text_config": 5})", "text_config: is integer where an object is expected");
}

TEST_CASE("FP8 with a factor for each block is understood, and other quantisations are refused by name") {
  const auto quantised = [](const std::string& more) {
    return llama(R"("quantization_config": {"quant_method": "fp8", "activation_scheme": "dynamic")" + more + "}");
  };
  CHECK(read(quantised("")).fp8->rows == 128);
  CHECK(read(quantised(R"(, "fmt": "e4m3", "weight_block_size": [64, 32], "ignored_layers": ["gate"])")).fp8->columns ==
        32);
  refused(quantised(R"(, "weight_block_size": null)"), "weight_block_size: is null");
  refused(quantised(R"(, "weight_block_size": [0, 128])"), "weight_block_size: is [0,128]; expected two sizes");
  refused(quantised(R"(, "fmt": "e5m2")"), "fmt: is \"e5m2\", which is not supported");
  refused(quantised(R"(, "activation_scale_ub": 1200)"), "activation_scale_ub: is not known here");
  refused(llama(R"("quantization_config": {"quant_method": "awq", "bits": 4})"),
          "quant_method: is \"awq\", which is not supported");
  refused(llama(R"("quantization_config": {"quant_method": "fp8", "activation_scheme": "static"})"),
          "activation_scheme: is \"static\"");
}

}  // namespace layerprobe::model
