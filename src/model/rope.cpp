#include "model/rope.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>

#include "base/error.h"
#include "base/float16.h"

namespace layerprobe::model {
namespace {

/// base^exponent in f32: within an ulp of torch's.
float pow_f32(float base, float exponent) { return static_cast<float>(std::pow(double{base}, double{exponent})); }

/// theta^(2j / width) for j < count, in f32.
std::vector<float> powers(float theta, std::int64_t width, std::int64_t count) {
  std::vector<float> out(static_cast<std::size_t>(count));
  for (std::int64_t j = 0; j < count; ++j) {
    out[static_cast<std::size_t>(j)] = pow_f32(theta, static_cast<float>(2 * j) / static_cast<float>(width));
  }
  return out;
}

/// Llama 3.1: long waves are slowed down by `factor`, short ones kept, those between blended.
void llama3(const RopeParameters& rope, std::vector<float>& inv_freq) {
  const auto low_freq_wavelen = static_cast<float>(rope.original_max_position_embeddings / rope.low_freq_factor);
  const auto high_freq_wavelen = static_cast<float>(rope.original_max_position_embeddings / rope.high_freq_factor);
  const auto original = static_cast<float>(rope.original_max_position_embeddings);
  const auto factor = static_cast<float>(*rope.factor);
  const auto low = static_cast<float>(rope.low_freq_factor);
  const auto range = static_cast<float>(rope.high_freq_factor - rope.low_freq_factor);
  for (float& frequency : inv_freq) {
    const float wavelen = static_cast<float>(2 * std::numbers::pi) / frequency;
    if (wavelen > low_freq_wavelen) {
      frequency = frequency / factor;
    } else if (!(wavelen < high_freq_wavelen)) {
      const float smooth = (original / wavelen - low) / range;
      frequency = (1 - smooth) * frequency / factor + smooth * frequency;
    }
  }
}

double yarn_mscale(double scale, double mscale) { return scale <= 1 ? 1.0 : 0.1 * mscale * std::log(scale) + 1.0; }

/// Peng et al. 2023, arXiv:2309.00071: short waves extrapolate, long ones interpolate, a ramp between.
RopeFrequencies yarn(const ModelConfig& config) {
  const RopeParameters& rope = config.rope;
  const double dim = static_cast<double>(config.rotary_dim);
  const double original = rope.original_max_position_embeddings;
  const double factor = rope.factor.value_or(static_cast<double>(config.max_position_embeddings) / original);
  const auto correction_dim = [&](double rotations) {
    return dim * std::log(original / (rotations * 2 * std::numbers::pi)) / (2 * std::log(rope.rope_theta));
  };
  double low = correction_dim(rope.beta_fast);
  double high = correction_dim(rope.beta_slow);
  if (rope.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dim - 1);
  if (low == high) high += 0.001;

  RopeFrequencies out;
  out.inv_freq = powers(static_cast<float>(rope.rope_theta), config.rotary_dim, config.rotary_dim / 2);
  for (std::size_t j = 0; j < out.inv_freq.size(); ++j) {
    const float power = out.inv_freq[j];
    const float extrapolation = 1.0f / power;
    const float interpolation = 1.0f / (static_cast<float>(factor) * power);
    const float linear = (static_cast<float>(j) - static_cast<float>(low)) / static_cast<float>(high - low);
    const float keep = 1.0f - std::clamp(linear, 0.0f, 1.0f);
    out.inv_freq[j] = interpolation * (1.0f - keep) + extrapolation * keep;
  }
  if (rope.attention_factor) {
    out.attention_factor = *rope.attention_factor;
  } else if (rope.mscale.value_or(0) != 0 && rope.mscale_all_dim.value_or(0) != 0) {
    out.attention_factor = yarn_mscale(factor, *rope.mscale) / yarn_mscale(factor, *rope.mscale_all_dim);
  } else {
    out.attention_factor = yarn_mscale(factor, 1);
  }
  return out;
}

/// Ding et al. 2024, arXiv:2402.13753: one factor a frequency, another set for prompts beyond the original context.
RopeFrequencies longrope(const ModelConfig& config, std::int64_t prompt_length) {
  const RopeParameters& rope = config.rope;
  const double original = rope.original_max_position_embeddings;
  const bool is_long = static_cast<double>(prompt_length) > original;
  const std::vector<double>& factors = is_long ? rope.long_factor : rope.short_factor;
  RopeFrequencies out;
  out.inv_freq = powers(static_cast<float>(rope.rope_theta), config.rotary_dim, config.rotary_dim / 2);
  for (std::size_t j = 0; j < out.inv_freq.size(); ++j) {
    out.inv_freq[j] = 1.0f / (static_cast<float>(factors[j]) * out.inv_freq[j]);
  }
  const double factor = rope.factor.value_or(static_cast<double>(config.max_position_embeddings) / original);
  if (rope.attention_factor) {
    out.attention_factor = *rope.attention_factor;
  } else if (factor > 1) {
    out.attention_factor = std::sqrt(1 + std::log(factor) / std::log(original));
  }
  return out;
}

/// The first frequencies of a whole head, the others 0: those dimensions are not rotated.
std::vector<float> proportional(const ModelConfig& config) {
  const std::int64_t half = config.head_dim / 2;
  const auto rotated = static_cast<std::int64_t>(
      std::floor(config.rope.partial_rotary_factor * static_cast<double>(config.head_dim) / 2));
  std::vector<float> out = powers(static_cast<float>(config.rope.rope_theta), config.head_dim, half);
  for (std::int64_t j = 0; j < half; ++j) {
    float& frequency = out[static_cast<std::size_t>(j)];
    frequency = j < rotated ? 1.0f / frequency / static_cast<float>(config.rope.factor.value_or(1)) : 0.0f;
  }
  return out;
}

/// "dynamic": the base grows with the prompt beyond max_position_embeddings.
float dynamic_theta(const ModelConfig& config, std::int64_t prompt_length) {
  if (prompt_length <= config.max_position_embeddings) return static_cast<float>(config.rope.rope_theta);
  const auto factor = static_cast<float>(*config.rope.factor);
  const float stretched =
      factor * static_cast<float>(prompt_length) / static_cast<float>(config.max_position_embeddings) - (factor - 1);
  const auto dim = static_cast<double>(config.rotary_dim);
  return static_cast<float>(config.rope.rope_theta) * pow_f32(stretched, static_cast<float>(dim / (dim - 2)));
}

}  // namespace

RopeFrequencies rope_frequencies(const ModelConfig& config, std::int64_t prompt_length,
                                 std::span<const float> divisors) {
  const RopeParameters& rope = config.rope;
  RopeFrequencies out;
  if (rope.rope_type == "yarn") {
    out = yarn(config);
  } else if (rope.rope_type == "longrope") {
    out = longrope(config, prompt_length);
  } else if (rope.rope_type == "proportional") {
    out.inv_freq = proportional(config);
  } else {
    const float theta =
        rope.rope_type == "dynamic" ? dynamic_theta(config, prompt_length) : static_cast<float>(rope.rope_theta);
    out.inv_freq = powers(theta, config.rotary_dim, config.rotary_dim / 2);
    for (float& frequency : out.inv_freq) frequency = 1.0f / frequency;
    if (rope.rope_type == "linear") {
      for (float& frequency : out.inv_freq) frequency /= static_cast<float>(*rope.factor);
    } else if (rope.rope_type == "llama3") {
      llama3(rope, out.inv_freq);
    }
  }
  expect(divisors.empty() || divisors.size() == out.inv_freq.size(), "rope_freqs.weight has head_dim / 2 elements");
  for (std::size_t j = 0; j < divisors.size(); ++j) out.inv_freq[j] /= divisors[j];
  return out;
}

double attention_scaling(const ModelConfig& config) {
  const double scaling = 1 / std::sqrt(static_cast<double>(config.head_dim));
  const double mscale_all_dim = config.rope.mscale_all_dim.value_or(0);
  if (!config.latent || config.rope.rope_type == "default" || mscale_all_dim == 0) return scaling;
  const double mscale = yarn_mscale(config.rope.factor.value_or(1), mscale_all_dim);
  return scaling * mscale * mscale;
}

bool depends_on_length(const RopeParameters& rope) {
  return rope.rope_type == "dynamic" || rope.rope_type == "longrope";
}

RopeTables::RopeTables(const ModelConfig& config, Dtype dtype, std::vector<float> divisors)
    : config_(config),
      dtype_(dtype),
      divisors_(std::move(divisors)),
      row_bytes_(static_cast<std::size_t>(config.rotary_dim / 2) * size_of(dtype)) {}

void RopeTables::compute(const RopeFrequencies& frequencies, std::int64_t first, std::int64_t last, std::byte* cos,
                         std::byte* sin) const {
  const std::size_t half = frequencies.inv_freq.size();
  const auto scale = static_cast<float>(frequencies.attention_factor);
#pragma omp parallel for schedule(static) if ((last - first) * static_cast <std::int64_t>(half) > 4096)
  for (std::int64_t position = first; position < last; ++position) {
    std::byte* cos_row = cos + static_cast<std::size_t>(position - first) * row_bytes_;
    std::byte* sin_row = sin + static_cast<std::size_t>(position - first) * row_bytes_;
    for (std::size_t j = 0; j < half; ++j) {
      if (dtype_ == Dtype::f64) {
        const double angle = static_cast<double>(position) * double{frequencies.inv_freq[j]};
        reinterpret_cast<double*>(cos_row)[j] = std::cos(angle) * frequencies.attention_factor;
        reinterpret_cast<double*>(sin_row)[j] = std::sin(angle) * frequencies.attention_factor;
        continue;
      }
      const float angle = static_cast<float>(position) * frequencies.inv_freq[j];  // one f32 product, as the reference
      const float c = static_cast<float>(std::cos(double{angle})) * scale;
      const float s = static_cast<float>(std::sin(double{angle})) * scale;
      if (dtype_ == Dtype::f32) {
        reinterpret_cast<float*>(cos_row)[j] = c;
        reinterpret_cast<float*>(sin_row)[j] = s;
      } else {
        const bool is_bf16 = dtype_ == Dtype::bf16;
        reinterpret_cast<std::uint16_t*>(cos_row)[j] = is_bf16 ? bf16_of_f32(c) : f16_of_f32(c);
        reinterpret_cast<std::uint16_t*>(sin_row)[j] = is_bf16 ? bf16_of_f32(s) : f16_of_f32(s);
      }
    }
  }
}

void RopeTables::fill(std::span<const std::int64_t> cu_seqlens, void* cos, void* sin) {
  auto* cos_rows = static_cast<std::byte*>(cos);
  auto* sin_rows = static_cast<std::byte*>(sin);
  for (std::size_t prompt = 0; prompt + 1 < cu_seqlens.size(); ++prompt) {
    const std::int64_t length = cu_seqlens[prompt + 1] - cu_seqlens[prompt];
    const std::size_t offset = static_cast<std::size_t>(cu_seqlens[prompt] - cu_seqlens[0]) * row_bytes_;
    const std::size_t bytes = static_cast<std::size_t>(length) * row_bytes_;
    if (depends_on_length(config_.rope)) {
      compute(rope_frequencies(config_, length, divisors_), 0, length, cos_rows + offset, sin_rows + offset);
      continue;
    }
    if (cos_.size() < bytes) {
      const std::int64_t known = static_cast<std::int64_t>(cos_.size() / row_bytes_);
      cos_.resize(bytes);
      sin_.resize(bytes);
      const std::size_t at = static_cast<std::size_t>(known) * row_bytes_;
      compute(rope_frequencies(config_, length, divisors_), known, length, cos_.data() + at, sin_.data() + at);
    }
    std::memcpy(cos_rows + offset, cos_.data(), bytes);
    std::memcpy(sin_rows + offset, sin_.data(), bytes);
  }
}

}  // namespace layerprobe::model
