#include "model/decoder_layer.h"

#include <array>
#include <cmath>
#include <utility>

#include "base/error.h"

namespace layerprobe::model {
namespace {

/// Each activation and its width, in one place for sizes and for the tensors themselves.
std::array<std::pair<device::Tensor LayerValues::*, std::int64_t>, 11> widths(const ModelConfig& config) {
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t qkv = config.query_size() + 2 * config.key_value_size();
  return {{{&LayerValues::hidden_states, hidden},
           {&LayerValues::next_hidden_states, hidden},
           {&LayerValues::residual, hidden},
           {&LayerValues::normed, hidden},
           {&LayerValues::qkv, qkv},
           {&LayerValues::attn_weighted, config.query_size()},
           {&LayerValues::block_output, hidden},
           {&LayerValues::gate_up, 2 * config.intermediate_size},
           {&LayerValues::activated, config.intermediate_size},
           {&LayerValues::cos, config.head_dim / 2},
           {&LayerValues::sin, config.head_dim / 2}}};
}

std::size_t aligned_bytes(Dtype dtype, std::int64_t tokens, std::int64_t width) {
  return (static_cast<std::size_t>(tokens * width) * size_of(dtype) + 255) / 256 * 256;
}

}  // namespace

std::size_t Activations::bytes(const ModelConfig& config, Dtype dtype, std::int64_t max_tokens) {
  std::size_t total = 0;
  for (const auto& [tensor, width] : widths(config)) total += aligned_bytes(dtype, max_tokens, width);
  return total;
}

Activations::Activations(const ModelConfig& config, Dtype dtype, std::int64_t max_tokens, device::Ops& ops,
                         bool are_sent)
    : buffer_(are_sent ? ops.allocate_shared(bytes(config, dtype, max_tokens))
                       : ops.allocate(bytes(config, dtype, max_tokens))) {
  auto* next = static_cast<std::byte*>(buffer_.data());
  for (const auto& [tensor, width] : widths(config)) {
    values_.*tensor = device::Tensor::contiguous(next, dtype, max_tokens, width);
    next += aligned_bytes(dtype, max_tokens, width);
  }
}

LayerValues Activations::values(std::int64_t num_tokens) const {
  LayerValues out = values_;
  for (device::Tensor* tensor :
       {&out.hidden_states, &out.next_hidden_states, &out.residual, &out.normed, &out.qkv, &out.attn_weighted,
        &out.block_output, &out.gate_up, &out.activated, &out.cos, &out.sin}) {
    tensor->rows = num_tokens;
  }
  return out;
}

void forward_decoder_layer(const ModelConfig& config, const LayerWeights& weights, std::int64_t layer,
                           std::span<const std::int64_t> cu_seqlens, device::Ops& ops, const LayerValues& a,
                           const Observe& observe) {
  const std::int64_t query_size = config.query_size();
  const std::int64_t key_value_size = config.key_value_size();
  const device::Tensor query_states = a.qkv.column_slice(0, query_size);
  const device::Tensor key_states = a.qkv.column_slice(query_size, key_value_size);
  const device::Tensor value_states = a.qkv.column_slice(query_size + key_value_size, key_value_size);
  const device::Tensor gate = a.gate_up.column_slice(0, config.intermediate_size);
  const device::Tensor up = a.gate_up.column_slice(config.intermediate_size, config.intermediate_size);

  observe(":input", a.hidden_states);
  ops.rms_norm({.out = a.normed,
                .hidden_states = a.hidden_states,
                .weight = weights.input_layernorm.tensor,
                .rms_norm_eps = config.rms_norm_eps});
  observe(".input_layernorm", a.normed);
  ops.matmul({.out = a.qkv, .x = a.normed, .weight = *weights.qkv_proj});
  observe(".self_attn.q_proj", query_states);
  observe(".self_attn.k_proj", key_states);
  observe(".self_attn.v_proj", value_states);
  if (config.qk_norm) {
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
                 .scaling = 1 / std::sqrt(static_cast<double>(config.head_dim)),
                 .sliding_window = config.sliding_window[static_cast<std::size_t>(layer)]});
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
  ops.matmul({.out = a.gate_up, .x = a.normed, .weight = *weights.gate_up_proj});
  observe(".mlp.gate_proj", gate);
  observe(".mlp.up_proj", up);
  if (observe.wants(".mlp.act_fn")) {
    ops.silu_mul({.out = a.activated, .gate = gate, .up = {}});
    observe(".mlp.act_fn", a.activated);
  }
  ops.silu_mul({.out = a.activated, .gate = gate, .up = up});
  observe(".mlp.down_proj:input", a.activated);
  ops.matmul({.out = a.block_output, .x = a.activated, .weight = *weights.down_proj});
  observe(".mlp.down_proj", a.block_output);
  ops.add({.out = a.next_hidden_states, .a = a.residual, .b = a.block_output});
  observe("", a.next_hidden_states);
}

}  // namespace layerprobe::model
