#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/dtype.h"
#include "base/json.h"

namespace layerprobe::model {

/// config.json's rope_parameters (new spelling) or rope_scaling and rope_theta (old), resolved as transformers does.
/// What a rope_type means is in model/rope.h.
struct RopeParameters {
  std::string rope_type = "default";  // default, linear, dynamic, llama3, yarn, longrope, proportional
  double rope_theta = 10000.0;
  double partial_rotary_factor = 1.0;  // of "proportional"; 1 for every other type of these families
  std::optional<double> factor;
  double original_max_position_embeddings = 0;
  double low_freq_factor = 0;
  double high_freq_factor = 0;
  std::optional<double> attention_factor;
  double beta_fast = 32;
  double beta_slow = 1;
  std::optional<double> mscale;
  std::optional<double> mscale_all_dim;
  bool truncate = true;
  std::vector<double> short_factor;
  std::vector<double> long_factor;
};

/// What one decoder of the families of model/architectures.h computes, in config.json's own words.
struct ModelConfig {
  std::string model_type;
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;                     // of q_proj, k_proj and v_proj
  bool o_bias = false;                       // of o_proj
  bool mlp_bias = false;                     // of gate_proj, up_proj and down_proj
  bool qk_norm = false;                      // RMSNorm of each query and key head before the rotation
  std::vector<std::int64_t> sliding_window;  // [num_hidden_layers]: tokens a token sees, itself included; 0: all
  RopeParameters rope;
  std::optional<Dtype> dtype;            // of the checkpoint, as the config says
  std::vector<std::string> unused_keys;  // known to nobody here, and by their names without influence on the math

  std::int64_t query_size() const { return num_attention_heads * head_dim; }
  std::int64_t key_value_size() const { return num_key_value_heads * head_dim; }
};

/// Reads config.json, in transformers 4's spelling or 5's. `where` names it in errors: "<folder>/config.json".
/// Throws Error(input) for an architecture that is not supported (with the list of those that are), a value of the
/// wrong kind or out of range, a value that asks for math this program does not have, and a key that it does not know
/// and whose name says that it changes the math.
ModelConfig read_config(const Json& config, const std::string& where);

}  // namespace layerprobe::model
