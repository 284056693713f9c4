#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "device/ops.h"
#include "model/config.h"
#include "model/weights.h"

namespace layerprobe::model {

/// How a layer shows its values to whoever keeps them. A suffix is one of model/points.h's values.
struct Observe {
  /// Is the value asked for? What is not made on the way is made only then.
  std::function<bool(std::string_view suffix)> wants;
  /// The value stays as it is until the call returns.
  std::function<void(std::string_view suffix, const device::Tensor& value)> see;

  void operator()(std::string_view suffix, const device::Tensor& value) const {
    if (wants(suffix)) see(suffix, value);
  }
};

/// All values of one layer for one micro-batch, and the residual stream on both sides of it, so that what leaves a
/// layer need not be written over what entered while that is being copied out. Tensors are [num_tokens, width].
struct LayerValues {
  device::Tensor hidden_states;         // [num_tokens, hidden_size], enters the layer
  device::Tensor next_hidden_states;    // [num_tokens, hidden_size], leaves it; may be hidden_states
  device::Tensor coming_hidden_states;  // [num_tokens, hidden_size], of the next micro-batch: both of the last two
                                        // states of this one may still be on their way to the host
  device::Tensor residual;              // [num_tokens, hidden_size], between attention and MLP
  device::Tensor normed;                // [num_tokens, hidden_size]
  device::Tensor qkv;                   // [num_tokens, qkv_size]
  device::Tensor attn_weighted;         // [num_tokens, attention_size]
  device::Tensor block_output;          // [num_tokens, hidden_size], of attention, then of the MLP
  device::Tensor gate_up;               // [num_tokens, 2 * intermediate_size], or that of experts if it is larger
  device::Tensor activated;             // [num_tokens, intermediate_size], or that of experts
  device::Tensor cos, sin;              // [num_tokens, rotary_dim / 2]

  // Without data but with LatentAttention.
  device::Tensor query_states;  // [num_tokens, query_size]; without data unless q_lora_rank > 0
  device::Tensor kv;            // [num_tokens, num_attention_heads * (qk_nope_head_dim + v_head_dim)]
  device::Tensor key_states;    // [num_tokens, query_size]
  device::Tensor value_states;  // [num_tokens, attention_size]

  // Without data where no layer has experts. A token has a row for each expert that it chooses, and rows of one expert
  // stand together.
  device::Tensor router_inputs;                // [num_tokens, hidden_size], f32; without data unless Router::is_f32
  device::Tensor router_logits;                // [num_tokens, num_experts], of Router::dtype()
  device::Tensor topk_indices, row_of_choice;  // [num_tokens, num_experts_per_tok], i32
  device::Tensor topk_weights;                 // [num_tokens, num_experts_per_tok], f32; f64 in f64
  device::Tensor token_of_row;                 // [num_tokens * num_experts_per_tok, 1], i32
  device::Tensor expert_inputs;                // [num_tokens, hidden_size]: of some experts at a time; then the shared
                                               // experts' output
  device::Tensor expert_outputs;               // [num_tokens * num_experts_per_tok, hidden_size]
};

/// Memory for them.
class Activations {
 public:
  /// `are_sent`: to other devices.
  Activations(const ModelConfig& config, Dtype dtype, std::int64_t max_tokens, device::Ops& ops, bool are_sent);

  /// For this many tokens, at most max_tokens.
  LayerValues values(std::int64_t num_tokens) const;

  static std::size_t bytes(const ModelConfig& config, Dtype dtype, std::int64_t max_tokens);

 private:
  LayerValues values_;  // of max_tokens
  device::Buffer buffer_;
  std::vector<std::pair<device::Tensor LayerValues::*, std::int64_t>> rows_a_token_;
};

/// Runs latent attention up to o_proj: a.normed in, a.attn_weighted out. Line by line transformers'
/// DeepseekV3Attention.
void forward_latent_attention(const ModelConfig& config, const LayerWeights& weights,
                              std::span<const std::int64_t> cu_seqlens, device::Ops& ops, const LayerValues& a,
                              const Observe& observe);

/// What the values of an MLP are called.
struct MlpPoints {
  std::string_view gate_proj, up_proj, act_fn, down_proj_input, down_proj;
};

/// Gate and up projection, activation and down projection of `intermediate_size` columns: a.normed in, `out` out.
void forward_mlp(std::int64_t intermediate_size, const LayerWeights& weights, device::Ops& ops, const LayerValues& a,
                 const device::Tensor& out, const MlpPoints& points, const Observe& observe);

/// Runs the experts of a layer: a.normed in, a.block_output out. Line by line transformers' MixtralSparseMoeBlock,
/// Qwen3MoeSparseMoeBlock, MiniMaxM2SparseMoeBlock and DeepseekV3MoE.
void forward_experts(const ExpertsConfig& config, const LayerWeights& weights, device::Ops& ops, const LayerValues& a,
                     const Observe& observe);

/// Runs one decoder layer on packed prompts: a.hidden_states in, a.next_hidden_states out. `cu_seqlens`
/// ([num_prompts + 1]) begins with 0 and ends with the number of tokens; a.cos and a.sin are filled. Line by line
/// transformers' LlamaDecoderLayer, MistralDecoderLayer, Qwen2DecoderLayer and Qwen3DecoderLayer, and their like with
/// experts and latent attention.
void forward_decoder_layer(const ModelConfig& config, const LayerWeights& weights, std::int64_t layer,
                           std::span<const std::int64_t> cu_seqlens, device::Ops& ops, const LayerValues& a,
                           const Observe& observe);

}  // namespace layerprobe::model
