#include "model/architectures.h"

#include <array>

namespace layerprobe::model {
namespace {

using Biases = Architecture::Biases;
using Experts = Architecture::Experts;
using Windows = Architecture::Windows;

constexpr ExpertNames kMlpNames = {
    .module = "mlp", .gate_proj = "gate_proj", .up_proj = "up_proj", .down_proj = "down_proj"};
constexpr ExpertNames kMixtralNames = {
    .module = "block_sparse_moe", .gate_proj = "w1", .up_proj = "w3", .down_proj = "w2"};

// What MiniMax's own code can vary and transformers' class cannot.
constexpr std::array<FixedKey, 9> kMiniMaxM2Keys = {{{"use_qk_norm", "true"},
                                                     {"qk_norm_type", "\"per_layer\""},
                                                     {"use_routing_bias", "true"},
                                                     {"scoring_func", "\"sigmoid\""},
                                                     {"attn_type_list", "1"},
                                                     {"shared_intermediate_size", "0"},
                                                     {"layernorm_full_attention_beta", "1"},
                                                     {"layernorm_linear_attention_beta", "1"},
                                                     {"layernorm_mlp_beta", "1"}}};

// Source: transformers 5.23, models/<model_type>/configuration_<model_type>.py.
constexpr std::array kArchitectures = {
    Architecture{.model_type = "llama",
                 .vocab_size = 32000,
                 .hidden_size = 4096,
                 .intermediate_size = 11008,
                 .num_hidden_layers = 32,
                 .num_attention_heads = 32,
                 .num_key_value_heads = 0,
                 .head_dim = 0,
                 .rms_norm_eps = 1e-6,
                 .max_position_embeddings = 2048,
                 .attention_biases = Biases::attention_bias,
                 .has_mlp_bias_key = true,
                 .qk_norm = QkNorm::none,
                 .windows = Windows::none,
                 .sliding_window = 0,
                 .max_window_layers = 0},
    Architecture{.model_type = "mistral",
                 .vocab_size = 32000,
                 .hidden_size = 4096,
                 .intermediate_size = 14336,
                 .num_hidden_layers = 32,
                 .num_attention_heads = 32,
                 .num_key_value_heads = 8,
                 .head_dim = 0,
                 .rms_norm_eps = 1e-6,
                 .max_position_embeddings = 131072,
                 .attention_biases = Biases::none,
                 .has_mlp_bias_key = false,
                 .qk_norm = QkNorm::none,
                 .windows = Windows::every_layer,
                 .sliding_window = 4096,
                 .max_window_layers = 0},
    Architecture{.model_type = "qwen2",
                 .vocab_size = 151936,
                 .hidden_size = 4096,
                 .intermediate_size = 22016,
                 .num_hidden_layers = 32,
                 .num_attention_heads = 32,
                 .num_key_value_heads = 32,
                 .head_dim = 0,
                 .rms_norm_eps = 1e-6,
                 .max_position_embeddings = 32768,
                 .attention_biases = Biases::qkv,
                 .has_mlp_bias_key = false,
                 .qk_norm = QkNorm::none,
                 .windows = Windows::use_sliding_window,
                 .sliding_window = 4096,
                 .max_window_layers = 28},
    Architecture{.model_type = "qwen3",
                 .vocab_size = 151936,
                 .hidden_size = 4096,
                 .intermediate_size = 22016,
                 .num_hidden_layers = 32,
                 .num_attention_heads = 32,
                 .num_key_value_heads = 32,
                 .head_dim = 128,
                 .rms_norm_eps = 1e-6,
                 .max_position_embeddings = 32768,
                 .attention_biases = Biases::attention_bias,
                 .has_mlp_bias_key = false,
                 .qk_norm = QkNorm::per_head,
                 .windows = Windows::use_sliding_window,
                 .sliding_window = 4096,
                 .max_window_layers = 28},
    Architecture{.model_type = "mixtral",
                 .vocab_size = 32000,
                 .hidden_size = 4096,
                 .intermediate_size = 14336,
                 .num_hidden_layers = 32,
                 .num_attention_heads = 32,
                 .num_key_value_heads = 8,
                 .head_dim = 0,
                 .rms_norm_eps = 1e-5,
                 .max_position_embeddings = 131072,
                 .attention_biases = Biases::none,
                 .has_mlp_bias_key = false,
                 .qk_norm = QkNorm::none,
                 .windows = Windows::every_layer,
                 .sliding_window = 0,
                 .max_window_layers = 0,
                 .rope_theta = 1e6,
                 .experts = Experts{.num_experts = 8,
                                    .num_experts_per_tok = 2,
                                    .moe_intermediate_size = 0,
                                    .has_dense_layers = false,
                                    .has_norm_topk_prob_key = false,
                                    .names = kMixtralNames,
                                    .router = {}}},
    Architecture{.model_type = "qwen3_moe",
                 .vocab_size = 151936,
                 .hidden_size = 2048,
                 .intermediate_size = 6144,
                 .num_hidden_layers = 24,
                 .num_attention_heads = 32,
                 .num_key_value_heads = 4,
                 .head_dim = 0,
                 .rms_norm_eps = 1e-6,
                 .max_position_embeddings = 32768,
                 .attention_biases = Biases::attention_bias,
                 .has_mlp_bias_key = false,
                 .qk_norm = QkNorm::per_head,
                 .windows = Windows::every_layer_if_used,
                 .sliding_window = 4096,
                 .max_window_layers = 0,
                 .experts = Experts{.num_experts = 128,
                                    .num_experts_per_tok = 8,
                                    .moe_intermediate_size = 768,
                                    .has_dense_layers = true,
                                    .has_norm_topk_prob_key = true,
                                    .names = kMlpNames,
                                    .router = {.rounds_weights = true}}},
    Architecture{.model_type = "minimax_m2",
                 .vocab_size = 200064,
                 .hidden_size = 3072,
                 .intermediate_size = 1536,
                 .num_hidden_layers = 62,
                 .num_attention_heads = 48,
                 .num_key_value_heads = 8,
                 .head_dim = 128,
                 .rms_norm_eps = 1e-6,
                 .max_position_embeddings = 196608,
                 .attention_biases = Biases::none,
                 .has_mlp_bias_key = false,
                 .qk_norm = QkNorm::flat,
                 .windows = Windows::none,
                 .sliding_window = 0,
                 .max_window_layers = 0,
                 .rope_theta = 5e6,
                 .experts = Experts{.num_experts = 256,
                                    .num_experts_per_tok = 8,
                                    .moe_intermediate_size = 0,
                                    .has_dense_layers = false,
                                    .has_norm_topk_prob_key = false,
                                    .names = kMixtralNames,
                                    .router = {.scores = Router::Scores::sigmoid, .has_selection_bias = true}},
                 .rotates_part = true,
                 .fixed_keys = kMiniMaxM2Keys},
};

}  // namespace

const Architecture* find_architecture(std::string_view model_type) {
  for (const Architecture& architecture : kArchitectures) {
    if (architecture.model_type == model_type) return &architecture;
  }
  return nullptr;
}

std::vector<std::string> supported_architectures() {
  std::vector<std::string> names;
  for (const Architecture& architecture : kArchitectures) names.emplace_back(architecture.model_type);
  return names;
}

}  // namespace layerprobe::model
