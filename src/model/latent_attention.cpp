#include "model/decoder_layer.h"
#include "model/rope.h"

namespace layerprobe::model {

void forward_latent_attention(const ModelConfig& config, const LayerWeights& weights,
                              std::span<const std::int64_t> cu_seqlens, device::Ops& ops, const LayerValues& a,
                              const Observe& observe) {
  const LatentAttention& latent = *config.latent;
  const bool has_query_latent = latent.q_lora_rank > 0;
  const std::int64_t query_columns = has_query_latent ? latent.q_lora_rank : config.query_size();
  const device::Tensor query_latent = a.qkv.column_slice(0, query_columns);  // q_proj's output where there is no latent
  const device::Tensor compressed_kv = a.qkv.column_slice(query_columns, latent.kv_lora_rank + latent.qk_rope_head_dim);
  const device::Tensor kv_latent = compressed_kv.column_slice(0, latent.kv_lora_rank);
  const device::Tensor k_rot = compressed_kv.column_slice(latent.kv_lora_rank, latent.qk_rope_head_dim);
  const device::Tensor query_states = has_query_latent ? a.query_states : query_latent;
  const auto normalize = [&](const device::Tensor& x, const OwnedTensor& weight) {
    ops.rms_norm({.out = x, .hidden_states = x, .weight = weight.tensor, .rms_norm_eps = LatentAttention::kRmsNormEps});
  };

  ops.matmul({.out = a.qkv, .x = a.normed, .weight = *weights.qkv_proj});
  if (has_query_latent) {
    observe(".self_attn.q_a_proj", query_latent);
    normalize(query_latent, weights.q_a_layernorm);
    observe(".self_attn.q_a_layernorm", query_latent);
    ops.matmul({.out = query_states, .x = query_latent, .weight = *weights.q_b_proj});
    observe(".self_attn.q_b_proj", query_states);
  } else {
    observe(".self_attn.q_proj", query_states);
  }
  observe(".self_attn.kv_a_proj_with_mqa", compressed_kv);
  observe(".self_attn.kv_a_layernorm:input", kv_latent);
  normalize(kv_latent, weights.kv_a_layernorm);
  observe(".self_attn.kv_a_layernorm", kv_latent);
  ops.matmul({.out = a.kv, .x = kv_latent, .weight = *weights.kv_b_proj});
  observe(".self_attn.kv_b_proj", a.kv);

  ops.rope({.x = query_states,
            .cos = a.cos,
            .sin = a.sin,
            .head_dim = config.head_dim,
            .first = latent.qk_nope_head_dim,
            .interleaved = latent.rope_interleave});
  ops.rope({.x = k_rot,
            .cos = a.cos,
            .sin = a.sin,
            .head_dim = latent.qk_rope_head_dim,
            .interleaved = latent.rope_interleave});
  ops.expand_key_values({.key_states = a.key_states,
                         .value_states = a.value_states,
                         .kv = a.kv,
                         .k_rot = k_rot,
                         .num_heads = config.num_attention_heads});
  ops.attention({.out = a.attn_weighted,
                 .query_states = query_states,
                 .key_states = a.key_states,
                 .value_states = a.value_states,
                 .cu_seqlens = cu_seqlens,
                 .head_dim = config.head_dim,
                 .scaling = attention_scaling(config),
                 .sliding_window = 0});
}

}  // namespace layerprobe::model
