#include "model/decoder_layer.h"

#include <algorithm>
#include <utility>

#include "model/rope.h"

namespace layerprobe::model {
namespace {

/// An activation's place in LayerValues, and its shape.
struct Part {
  device::Tensor LayerValues::*tensor;
  std::int64_t width;
  Dtype dtype;
  std::int64_t rows_a_token = 1;

  std::int64_t rows(std::int64_t tokens) const { return tokens * rows_a_token; }
  std::size_t aligned_bytes(std::int64_t tokens) const {
    return (static_cast<std::size_t>(rows(tokens) * width) * size_of(dtype) + 255) / 256 * 256;
  }
};

/// All of them, in one place for sizes and for the tensors themselves.
std::vector<Part> parts_of(const ModelConfig& config, Dtype dtype) {
  const std::int64_t hidden = config.hidden_size;
  std::int64_t intermediate = config.has_dense_layers() ? config.intermediate_size : 0;
  if (config.experts) {
    intermediate =
        std::max({intermediate, config.experts->moe_intermediate_size, config.experts->shared_intermediate_size});
  }
  std::vector<Part> parts = {{&LayerValues::hidden_states, hidden, dtype},
                             {&LayerValues::next_hidden_states, hidden, dtype},
                             {&LayerValues::coming_hidden_states, hidden, dtype},
                             {&LayerValues::residual, hidden, dtype},
                             {&LayerValues::normed, hidden, dtype},
                             {&LayerValues::qkv, config.qkv_size(), dtype},
                             {&LayerValues::attn_weighted, config.attention_size(), dtype},
                             {&LayerValues::block_output, hidden, dtype},
                             {&LayerValues::gate_up, 2 * intermediate, dtype},
                             {&LayerValues::activated, intermediate, dtype},
                             {&LayerValues::cos, config.rotary_dim / 2, dtype},
                             {&LayerValues::sin, config.rotary_dim / 2, dtype}};
  if (config.latent) {
    const std::int64_t of_head = config.latent->qk_nope_head_dim + config.latent->v_head_dim;
    if (config.latent->q_lora_rank > 0) parts.push_back({&LayerValues::query_states, config.query_size(), dtype});
    parts.insert(parts.end(), {{&LayerValues::kv, config.num_attention_heads * of_head, dtype},
                               {&LayerValues::key_states, config.query_size(), dtype},
                               {&LayerValues::value_states, config.attention_size(), dtype}});
  }
  if (!config.experts) return parts;
  const std::int64_t choices = config.experts->num_experts_per_tok;
  const Dtype router = config.experts->router.dtype(dtype);
  if (router != dtype) parts.push_back({&LayerValues::router_inputs, hidden, router});
  parts.insert(parts.end(), {{&LayerValues::router_logits, config.experts->num_experts, router},
                             {&LayerValues::topk_indices, choices, Dtype::i32},
                             {&LayerValues::row_of_choice, choices, Dtype::i32},
                             {&LayerValues::topk_weights, choices, dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32},
                             {&LayerValues::token_of_row, 1, Dtype::i32, choices},
                             {&LayerValues::expert_inputs, hidden, dtype},
                             {&LayerValues::expert_outputs, hidden, dtype, choices}});
  return parts;
}

constexpr MlpPoints kMlpPoints = {.gate_proj = ".mlp.gate_proj",
                                  .up_proj = ".mlp.up_proj",
                                  .act_fn = ".mlp.act_fn",
                                  .down_proj_input = ".mlp.down_proj:input",
                                  .down_proj = ".mlp.down_proj"};

/// Attention up to o_proj with a head's query, key and value projected at once: a.normed in, a.attn_weighted out.
void forward_attention(const ModelConfig& config, const LayerWeights& weights, std::int64_t layer,
                       std::span<const std::int64_t> cu_seqlens, device::Ops& ops, const LayerValues& a,
                       const Observe& observe) {
  const std::int64_t query_size = config.query_size();
  const std::int64_t key_value_size = config.key_value_size();
  const device::Tensor query_states = a.qkv.column_slice(0, query_size);
  const device::Tensor key_states = a.qkv.column_slice(query_size, key_value_size);
  const device::Tensor value_states = a.qkv.column_slice(query_size + key_value_size, key_value_size);
  ops.matmul({.out = a.qkv, .x = a.normed, .weight = *weights.qkv_proj});
  observe(".self_attn.q_proj", query_states);
  observe(".self_attn.k_proj", key_states);
  observe(".self_attn.v_proj", value_states);
  if (config.qk_norm != QkNorm::none) {
    for (const auto& [states, weight] : {std::pair{query_states, &weights.q_norm}, {key_states, &weights.k_norm}}) {
      ops.rms_norm(
          {.out = states, .hidden_states = states, .weight = weight->tensor, .rms_norm_eps = config.rms_norm_eps});
    }
    observe(".self_attn.q_norm", query_states);
    observe(".self_attn.k_norm", key_states);
  }
  const device::Tensor query_and_key_states = a.qkv.column_slice(0, query_size + key_value_size);
  ops.rope({.x = query_and_key_states, .cos = a.cos, .sin = a.sin, .head_dim = config.head_dim});
  ops.attention({.out = a.attn_weighted,
                 .query_states = query_states,
                 .key_states = key_states,
                 .value_states = value_states,
                 .cu_seqlens = cu_seqlens,
                 .head_dim = config.head_dim,
                 .scaling = attention_scaling(config),
                 .sliding_window = config.sliding_window[static_cast<std::size_t>(layer)]});
}

}  // namespace

void forward_mlp(std::int64_t intermediate_size, const LayerWeights& weights, device::Ops& ops, const LayerValues& a,
                 const device::Tensor& out, const MlpPoints& points, const Observe& observe) {
  const device::Tensor gate_up = a.gate_up.column_slice(0, 2 * intermediate_size);
  const device::Tensor gate = gate_up.column_slice(0, intermediate_size);
  const device::Tensor up = gate_up.column_slice(intermediate_size, intermediate_size);
  const device::Tensor activated = a.activated.column_slice(0, intermediate_size);
  ops.matmul({.out = gate_up, .x = a.normed, .weight = *weights.gate_up_proj});
  observe(points.gate_proj, gate);
  observe(points.up_proj, up);
  if (observe.wants(points.act_fn)) {
    ops.silu_mul({.out = activated, .gate = gate, .up = {}});
    observe(points.act_fn, activated);
  }
  ops.silu_mul({.out = activated, .gate = gate, .up = up});
  observe(points.down_proj_input, activated);
  ops.matmul({.out = out, .x = activated, .weight = *weights.down_proj});
  observe(points.down_proj, out);
}

std::size_t Activations::bytes(const ModelConfig& config, Dtype dtype, std::int64_t max_tokens) {
  std::size_t total = 0;
  for (const Part& part : parts_of(config, dtype)) total += part.aligned_bytes(max_tokens);
  return total;
}

Activations::Activations(const ModelConfig& config, Dtype dtype, std::int64_t max_tokens, device::Ops& ops,
                         bool are_sent)
    : buffer_(are_sent ? ops.allocate_shared(bytes(config, dtype, max_tokens))
                       : ops.allocate(bytes(config, dtype, max_tokens))) {
  auto* next = static_cast<std::byte*>(buffer_.data());
  for (const Part& part : parts_of(config, dtype)) {
    values_.*part.tensor = device::Tensor::contiguous(next, part.dtype, part.rows(max_tokens), part.width);
    rows_a_token_.emplace_back(part.tensor, part.rows_a_token);
    next += part.aligned_bytes(max_tokens);
  }
}

LayerValues Activations::values(std::int64_t num_tokens) const {
  LayerValues out = values_;
  for (const auto& [tensor, rows] : rows_a_token_) (out.*tensor).rows = num_tokens * rows;
  return out;
}

void forward_decoder_layer(const ModelConfig& config, const LayerWeights& weights, std::int64_t layer,
                           std::span<const std::int64_t> cu_seqlens, device::Ops& ops, const LayerValues& a,
                           const Observe& observe) {
  observe(":input", a.hidden_states);
  ops.rms_norm({.out = a.normed,
                .hidden_states = a.hidden_states,
                .weight = weights.input_layernorm.tensor,
                .rms_norm_eps = config.rms_norm_eps});
  observe(".input_layernorm", a.normed);
  if (config.latent) {
    forward_latent_attention(config, weights, cu_seqlens, ops, a, observe);
  } else {
    forward_attention(config, weights, layer, cu_seqlens, ops, a, observe);
  }
  observe(".self_attn.o_proj:input", a.attn_weighted);
  ops.matmul({.out = a.block_output, .x = a.attn_weighted, .weight = *weights.o_proj});
  observe(".self_attn.o_proj", a.block_output);

  ops.add_rms_norm({.sum = a.residual,
                    .normed = a.normed,
                    .a = a.hidden_states,
                    .b = a.block_output,
                    .weight = weights.post_attention_layernorm.tensor,
                    .rms_norm_eps = config.rms_norm_eps});
  observe(".post_attention_layernorm:input", a.residual);
  observe(".post_attention_layernorm", a.normed);
  if (config.has_experts(layer)) {
    forward_experts(*config.experts, weights, ops, a, observe);
  } else {
    forward_mlp(config.intermediate_size, weights, ops, a, a.block_output, kMlpPoints, observe);
  }
  ops.add({.out = a.next_hidden_states, .a = a.residual, .b = a.block_output});
  observe("", a.next_hidden_states);
}

}  // namespace layerprobe::model
