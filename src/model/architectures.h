#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::model {

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
  bool qk_norm;

  enum class Windows {
    none,               // every layer sees all tokens before
    every_layer,        // sliding_window on every layer unless null
    use_sliding_window  // only where that key is true: layers from max_window_layers on, or as layer_types says
  };
  Windows windows;
  std::int64_t sliding_window;  // default of the key; 0 means null
  std::int64_t max_window_layers;
};

/// nullptr when no family has that name.
const Architecture* find_architecture(std::string_view model_type);

/// The supported names, for messages.
std::vector<std::string> supported_architectures();

}  // namespace layerprobe::model
