#include "model/points.h"

namespace layerprobe::model {

std::vector<LayerPoint> layer_points(const ModelConfig& config, std::int64_t layer, Dtype dtype) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t query = config.query_size();
  const std::int64_t key_value = config.key_value_size();
  const std::int64_t intermediate = config.intermediate_size;
  std::vector<LayerPoint> points;
  points.reserve(32);
  const auto add = [&](std::int64_t width, std::string_view value,
                       std::initializer_list<std::string_view> others = {}) {
    points.push_back({value, width, dtype, value});
    for (const std::string_view other : others) points.push_back({other, width, dtype, value});
  };
  add(hidden, ":input", {".input_layernorm:input"});
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
  add(query, ".self_attn.o_proj:input");
  add(hidden, ".self_attn.o_proj", {".self_attn"});
  add(hidden, ".post_attention_layernorm:input");
  if (config.has_experts(layer)) {
    const ExpertsConfig& experts = *config.experts;
    add(hidden, ".post_attention_layernorm", {".mlp:input", ".mlp.gate:input", ".mlp.experts:input"});
    points.push_back({".mlp.gate", experts.num_experts, experts.router.dtype(dtype), ".mlp.gate"});
    const Dtype weights = dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32;
    points.push_back({".mlp:topk_indices", experts.num_experts_per_tok, Dtype::i32, ".mlp:topk_indices"});
    points.push_back({".mlp:topk_weights", experts.num_experts_per_tok, weights, ".mlp:topk_weights"});
    add(hidden, ".mlp.experts", {".mlp"});
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

std::string layer_point_name(std::int64_t layer, std::string_view suffix) {
  std::string name = "model.layers." + std::to_string(layer);  // not text(): 300,000 names are no rare model's
  name += suffix;
  return name;
}

std::vector<ProbePoint> all_points(const ModelConfig& config, Dtype dtype) {
  std::vector<ProbePoint> points;
  points.push_back({"model.embed_tokens", dtype, config.hidden_size});
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const LayerPoint& point : layer_points(config, layer, dtype)) {
      points.push_back({layer_point_name(layer, point.suffix), point.dtype, point.width});
    }
  }
  points.push_back({"model.norm:input", dtype, config.hidden_size});
  points.push_back({"model.norm", dtype, config.hidden_size});
  points.push_back({"lm_head:input", dtype, config.hidden_size});
  points.push_back({"lm_head", dtype, config.vocab_size});
  return points;
}

}  // namespace layerprobe::model
