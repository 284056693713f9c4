#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "model/config.h"

namespace layerprobe::model {

/// The rotation's frequencies for a prompt of `prompt_length` tokens, and the factor that cos and sin are scaled by.
struct RopeFrequencies {
  std::vector<float> inv_freq;  // [rotary_dim / 2]
  double attention_factor = 1;
};

/// inv_freq[j] = 1 / rope_theta^(2j / rotary_dim), then changed as rope_type says; every step in f32, as torch computes
/// it. Only "dynamic" and "longrope" look at `prompt_length`. `divisors` ([rotary_dim / 2], or empty) are a GGUF's
/// rope_freqs.weight: inv_freq[j] /= divisors[j]. Source: transformers' modeling_rope_utils.py.
RopeFrequencies rope_frequencies(const ModelConfig& config, std::int64_t prompt_length,
                                 std::span<const float> divisors);

/// Of the scores, before the softmax: head_dim^-0.5; with latent attention and a rope_type that is not the default,
/// times (0.1 * mscale_all_dim * ln(factor) + 1)^2. Source: yarn_apply_mscale in transformers' modeling_deepseek_v3.py.
double attention_scaling(const ModelConfig& config);

/// Does the table of a prompt depend on its length?
bool depends_on_length(const RopeParameters& rope);

/// The tables of packed prompts, in `dtype`: cos and sin are [num_tokens, rotary_dim / 2], row-major, of
/// position * inv_freq: in f32 (in f64 when dtype is f64), each scaled by the attention factor, then rounded.
/// Positions count from 0 in every prompt of `cu_seqlens`.
class RopeTables {
 public:
  RopeTables(const ModelConfig& config, Dtype dtype, std::vector<float> divisors);

  /// Fills `cos` and `sin`, num_tokens * rotary_dim / 2 * size_of(dtype) bytes each. One thread at a time.
  void fill(std::span<const std::int64_t> cu_seqlens, void* cos, void* sin);

 private:
  void compute(const RopeFrequencies& frequencies, std::int64_t first, std::int64_t last, std::byte* cos,
               std::byte* sin) const;

  const ModelConfig& config_;
  Dtype dtype_;
  std::vector<float> divisors_;
  std::size_t row_bytes_;
  std::vector<std::byte> cos_, sin_;  // of the positions from 0 on, where no table depends on the prompt's length
};

}  // namespace layerprobe::model
