#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "model/config.h"

namespace layerprobe::model {

/// A key of config.json that may have one value, as JSON; in an array each element is that value.
struct FixedKey {
  std::string_view key;
  std::string_view value;
};

/// One family of decoders: a row of the table in architectures.cpp. Values are transformers 5's class defaults, used
/// where config.json lacks the key.
struct Architecture {
  std::string_view model_type;

  std::int64_t vocab_size;
  std::int64_t hidden_size;
  std::int64_t intermediate_size;
  std::int64_t num_hidden_layers;
  std::int64_t num_attention_heads;
  std::int64_t num_key_value_heads;  // 0: as many as num_attention_heads
  std::int64_t head_dim;             // 0: hidden_size / num_attention_heads
  double rms_norm_eps;
  std::int64_t max_position_embeddings;

  enum class Biases { none, qkv, attention_bias };  // attention_bias: as that key says, for q, k, v and o
  Biases attention_biases;
  bool has_mlp_bias_key;
  QkNorm qk_norm;

  enum class Windows {
    none,                 // every layer sees all tokens before
    every_layer,          // sliding_window on every layer unless null
    every_layer_if_used,  // the same where use_sliding_window is true
    use_sliding_window    // only where that key is true: layers from max_window_layers on, or as layer_types says
  };
  Windows windows;
  std::int64_t sliding_window;  // default of the key; 0 means null
  std::int64_t max_window_layers;

  double rope_theta = 10000;
  /// Families with experts.
  struct Experts {
    std::int64_t num_experts;
    std::int64_t num_experts_per_tok;
    std::int64_t moe_intermediate_size;  // 0: no such key, intermediate_size is an expert's
    bool has_dense_layers;               // mlp_only_layers and decoder_sparse_step say which
    bool has_norm_topk_prob_key;         // by default as in `router`; without the key weights are always normalised
    ExpertNames names;
    Router router;                            // its n_group and the like are defaults of the keys where they are not 1
    std::int64_t n_shared_experts = 0;        // default of the key; 0: no such key
    std::int64_t first_k_dense_replace = -1;  // the same, -1: those layers are dense
  };
  std::optional<Experts> experts = std::nullopt;
  std::optional<LatentAttention> latent = std::nullopt;  // defaults of its keys; head_dim is no key then
  /// Only the first dimensions of a head are rotated: rotary_dim or partial_rotary_factor says how many, and must.
  bool rotates_part = false;
  /// A decoder beside a vision tower, which is not run: its keys may be in text_config.
  bool is_vision_language = false;
  /// Keys that say what the family is, with the only value that has this math.
  std::span<const FixedKey> fixed_keys = {};
};

/// nullptr when no family has that name.
const Architecture* find_architecture(std::string_view model_type);

/// The supported names, for messages.
std::vector<std::string> supported_architectures();

}  // namespace layerprobe::model
