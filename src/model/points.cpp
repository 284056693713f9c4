#include "model/points.h"

namespace layerprobe::model {

std::vector<LayerPoint> layer_points(const ModelConfig& config, std::int64_t layer, Dtype dtype) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = config.query_size();
  const std::int64_t key_value = config.key_value_size();
  const std::int64_t intermediate = config.intermediate_size;
  std::vector<LayerPoint> points;
  points.reserve(48);
  const auto add = [&](std::int64_t width, std::string_view value,
                       std::initializer_list<std::string_view> others = {}) {
    points.push_back({value, width, dtype, value});
    for (const std::string_view other : others) points.push_back({other, width, dtype, value});
  };
  add(hidden, ":input", {".input_layernorm:input"});
  if (config.latent) {
    const LatentAttention& latent = *config.latent;
    if (latent.q_lora_rank > 0) {
      add(hidden, ".input_layernorm",
          {".self_attn:input", ".self_attn.q_a_proj:input", ".self_attn.kv_a_proj_with_mqa:input"});
      add(latent.q_lora_rank, ".self_attn.q_a_proj", {".self_attn.q_a_layernorm:input"});
      add(latent.q_lora_rank, ".self_attn.q_a_layernorm", {".self_attn.q_b_proj:input"});
      add(query, ".self_attn.q_b_proj");
    } else {
      add(hidden, ".input_layernorm",
          {".self_attn:input", ".self_attn.q_proj:input", ".self_attn.kv_a_proj_with_mqa:input"});
      add(query, ".self_attn.q_proj");
    }
    add(latent.kv_lora_rank + latent.qk_rope_head_dim, ".self_attn.kv_a_proj_with_mqa");
    add(latent.kv_lora_rank, ".self_attn.kv_a_layernorm:input");
    add(latent.kv_lora_rank, ".self_attn.kv_a_layernorm", {".self_attn.kv_b_proj:input"});
    add(config.num_attention_heads * (latent.qk_nope_head_dim + latent.v_head_dim), ".self_attn.kv_b_proj");
  } else {
    add(hidden, ".input_layernorm",
        {".self_attn:input", ".self_attn.q_proj:input", ".self_attn.k_proj:input", ".self_attn.v_proj:input"});
    if (config.qk_norm != QkNorm::none) {
      add(query, ".self_attn.q_proj", {".self_attn.q_norm:input"});
      add(key_value, ".self_attn.k_proj", {".self_attn.k_norm:input"});
    } else {
      add(query, ".self_attn.q_proj");
      add(key_value, ".self_attn.k_proj");
    }
    add(key_value, ".self_attn.v_proj");
    if (config.qk_norm != QkNorm::none) {
      add(query, ".self_attn.q_norm");
      add(key_value, ".self_attn.k_norm");
    }
  }
  add(config.attention_size(), ".self_attn.o_proj:input");
  add(hidden, ".self_attn.o_proj", {".self_attn"});
  add(hidden, ".post_attention_layernorm:input");
  if (config.has_experts(layer)) {
    const ExpertsConfig& experts = *config.experts;
    const std::int64_t shared = experts.shared_intermediate_size;
    if (shared > 0) {
      add(hidden, ".post_attention_layernorm",
          {".mlp:input", ".mlp.gate:input", ".mlp.experts:input", ".mlp.shared_experts:input",
           ".mlp.shared_experts.gate_proj:input", ".mlp.shared_experts.up_proj:input"});
    } else {
      add(hidden, ".post_attention_layernorm", {".mlp:input", ".mlp.gate:input", ".mlp.experts:input"});
    }
    points.push_back({".mlp.gate", experts.num_experts, experts.router.dtype(dtype), ".mlp.gate"});
    const Dtype weights = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
    points.push_back({".mlp:topk_indices", experts.num_experts_per_tok, Dtype::i32, ".mlp:topk_indices"});
    points.push_back({".mlp:topk_weights", experts.num_experts_per_tok, weights, ".mlp:topk_weights"});
    if (shared > 0) {
      add(hidden, ".mlp.experts");
      add(shared, ".mlp.shared_experts.gate_proj", {".mlp.shared_experts.act_fn:input"});
      add(shared, ".mlp.shared_experts.up_proj");
      add(shared, ".mlp.shared_experts.act_fn");
      add(shared, ".mlp.shared_experts.down_proj:input");
      add(hidden, ".mlp.shared_experts.down_proj", {".mlp.shared_experts"});
      add(hidden, ".mlp");
    } else {
      add(hidden, ".mlp.experts", {".mlp"});
    }
  } else {
    add(hidden, ".post_attention_layernorm", {".mlp:input", ".mlp.gate_proj:input", ".mlp.up_proj:input"});
    add(intermediate, ".mlp.gate_proj", {".mlp.act_fn:input"});
    add(intermediate, ".mlp.up_proj");
    add(intermediate, ".mlp.act_fn");
    add(intermediate, ".mlp.down_proj:input");
    add(hidden, ".mlp.down_proj", {".mlp"});
  }
  add(hidden, "");
  return points;
}

std::string layer_point_name(const ModelConfig& config, std::int64_t layer, std::string_view suffix) {
  std::string name = config.decoder;  // not text(): 300,000 names are no rare model's
  (name += ".layers.") += std::to_string(layer);
  name += suffix;
  return name;
}

std::vector<ProbePoint> all_points(const ModelConfig& config, Dtype dtype) {
  std::vector<ProbePoint> points;
  points.push_back({config.decoder + ".embed_tokens", dtype, config.hidden_size});
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const LayerPoint& point : layer_points(config, layer, dtype)) {
      points.push_back({layer_point_name(config, layer, point.suffix), point.dtype, point.width});
    }
  }
  points.push_back({config.decoder + ".norm:input", dtype, config.hidden_size});
  points.push_back({config.decoder + ".norm", dtype, config.hidden_size});
  points.push_back({"lm_head:input", dtype, config.hidden_size});
  points.push_back({"lm_head", dtype, config.vocab_size});
  return points;
}

}  // namespace layerprobe::model
