#include "model/architectures.h"

#include <array>

namespace layerprobe::model {
namespace {

using Biases = Architecture::Biases;
using Windows = Architecture::Windows;

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
                 .qk_norm = false,
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
                 .qk_norm = false,
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
                 .qk_norm = false,
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
                 .qk_norm = true,
                 .windows = Windows::use_sliding_window,
                 .sliding_window = 4096,
                 .max_window_layers = 28},
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
