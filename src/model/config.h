#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/json.h"

namespace layerprobe::model {

/// config.json's rope_parameters (new spelling) or rope_scaling and rope_theta (old), resolved as transformers does.
/// What a rope_type means is in model/rope.h.
struct RopeParameters {
  std::string rope_type = "default";  // default, linear, dynamic, llama3, yarn, longrope, proportional
  double rope_theta = 10000.0;
  double partial_rotary_factor = 1.0;  // of "proportional"; for every other type ModelConfig::rotary_dim has it
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

/// RMSNorm of queries and keys before the rotation: of each head, or of all heads as one vector.
enum class QkNorm { none, per_head, flat };

/// Multi-head latent attention: queries, keys and values are expanded from narrow projections, and a head's query and
/// key have a part that is rotated behind one that is not. ModelConfig::head_dim is both together.
struct LatentAttention {
  std::int64_t q_lora_rank = 0;  // 0: q_proj in place of q_a_proj and q_b_proj
  std::int64_t kv_lora_rank = 0;
  std::int64_t qk_nope_head_dim = 0;
  std::int64_t qk_rope_head_dim = 0;
  std::int64_t v_head_dim = 0;
  bool rope_interleave = true;  // a rotated pair is two neighbours

  static constexpr double kRmsNormEps = 1e-6;  // of the latents' norms, whatever rms_norm_eps says
};

/// How a layer with experts chooses among them: device/ops.h's route_tokens.
struct Router {
  enum class Scores { softmax, sigmoid };
  Scores scores = Scores::softmax;
  bool has_selection_bias = false;  // e_score_correction_bias
  bool normalizes = true;           // norm_topk_prob
  bool rounds_weights = false;      // to the run's dtype
  bool is_f32 = false;              // mlp.gate multiplies in f32, its input expanded, where the run's dtype is narrower
  bool rounds_gate = false;         // where is_f32: its weight is one of the run's dtype even so
  bool keeps_bias = false;          // e_score_correction_bias is not rounded to the run's dtype
  std::int64_t n_group = 1;
  std::int64_t topk_group = 1;
  double divisor_epsilon = 0;
  double routed_scaling_factor = 1;

  /// Of the logits, where a run has that dtype.
  Dtype dtype(Dtype run) const { return is_f32 && run != Dtype::f64 ? Dtype::f32 : run; }
};

/// What a checkpoint calls the parts of a layer with experts; in points their module is always "mlp".
struct ExpertNames {
  std::string_view module;  // "block_sparse_moe"
  std::string_view gate_proj, up_proj, down_proj;
  bool fused = false;  // all experts in one tensor, experts.gate_up_proj and experts.down_proj
  std::string_view selection_bias = "e_score_correction_bias";  // where the router has one
};

/// Of the layers that have experts.
struct ExpertsConfig {
  std::int64_t num_experts = 0;
  std::int64_t num_experts_per_tok = 0;
  std::int64_t moe_intermediate_size = 0;
  std::int64_t shared_intermediate_size = 0;  // of mlp.shared_experts, which every token goes through; 0: none
  Router router;
  ExpertNames names;
  std::vector<bool> in_layer;  // [num_hidden_layers]; the others are dense
};

/// A checkpoint whose matrices may be F8_E4M3 with a factor for each block, in NAME_scale_inv beside NAME.
struct Fp8Blocks {
  std::int64_t rows = 128;
  std::int64_t columns = 128;
};

/// What one decoder of the families of model/architectures.h computes, in config.json's own words.
struct ModelConfig {
  std::string model_type;
  /// The module that has the decoder's embed_tokens, layers and norm in transformers, which begins the names of their
  /// points: "model", or "model.language_model" beside other towers. Tensors and placements say "model" for both.
  std::string decoder = "model";
  std::int64_t vocab_size = 0;
  std::int64_t hidden_size = 0;
  std::int64_t intermediate_size = 0;
  std::int64_t num_hidden_layers = 0;
  std::int64_t num_attention_heads = 0;
  std::int64_t num_key_value_heads = 0;
  std::int64_t head_dim = 0;    // of queries and keys
  std::int64_t rotary_dim = 0;  // of each head, from its first dimension on, or its last with LatentAttention
  std::int64_t max_position_embeddings = 0;
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool qkv_bias = false;  // of q_proj, k_proj and v_proj
  bool o_bias = false;    // of o_proj
  bool mlp_bias = false;  // of gate_proj, up_proj and down_proj
  QkNorm qk_norm = QkNorm::none;
  std::optional<LatentAttention> latent;
  std::vector<std::int64_t> sliding_window;  // [num_hidden_layers]: tokens a token sees, itself included; 0: all
  RopeParameters rope;
  std::optional<ExpertsConfig> experts;
  std::optional<Fp8Blocks> fp8;
  std::optional<Dtype> dtype;            // of the checkpoint, as the config says
  std::int64_t num_mtp_layers = 0;       // behind the others in the file, and not run
  std::vector<std::string> unused_keys;  // known to nobody here, and by their names without influence on the math

  std::int64_t query_size() const { return num_attention_heads * head_dim; }
  std::int64_t key_value_size() const { return num_key_value_heads * head_dim; }
  std::int64_t value_head_dim() const { return latent ? latent->v_head_dim : head_dim; }
  /// What enters o_proj.
  std::int64_t attention_size() const { return num_attention_heads * value_head_dim(); }
  /// What a layer projects its normed input to for attention, all of it side by side.
  std::int64_t qkv_size() const;
  std::int64_t query_norm_size() const { return qk_norm == QkNorm::flat ? query_size() : head_dim; }
  std::int64_t key_norm_size() const { return qk_norm == QkNorm::flat ? key_value_size() : head_dim; }
  bool has_experts(std::int64_t layer) const { return experts && experts->in_layer[static_cast<std::size_t>(layer)]; }
  /// Is there a layer without experts?
  bool has_dense_layers() const;
};

/// Reads config.json, in transformers 4's spelling or 5's. `where` names it in errors: "<folder>/config.json".
/// Throws Error(input) for an architecture that is not supported (with the list of those that are), a value of the
/// wrong kind or out of range, a value that asks for math this program does not have, and a key that it does not know
/// and whose name says that it changes the math.
ModelConfig read_config(const Json& config, const std::string& where);

}  // namespace layerprobe::model
