#include "model/rope.h"

#include <doctest/doctest.h>

#include <cmath>
#include <numeric>
#include <utility>
#include <vector>

#include "base/float16.h"

namespace layerprobe::model {
namespace {

ModelConfig config_of(std::int64_t head_dim, RopeParameters rope) {
  ModelConfig config;
  config.head_dim = config.rotary_dim = head_dim;
  config.max_position_embeddings = 131072;
  config.rope = std::move(rope);
  return config;
}

void check_vector(const ModelConfig& config, const std::vector<std::pair<std::size_t, double>>& expected) {
  const RopeFrequencies frequencies = rope_frequencies(config, 1, {});
  for (const auto& [j, value] : expected) {
    CAPTURE(j);
    CHECK(std::abs(frequencies.inv_freq[j] - value) <= 2e-7 * value);
  }
}

}  // namespace

TEST_CASE("the frequencies of Llama 3.1 are those of its model card's parameters") {
  RopeParameters rope;
  rope.rope_type = "llama3";
  rope.rope_theta = 5e5;
  rope.factor = 8;
  rope.low_freq_factor = 1;
  rope.high_freq_factor = 4;
  rope.original_max_position_embeddings = 8192;
  check_vector(config_of(128, rope), {{0, 1},
                                      {1, 0.814617217},
                                      {28, 0.00321144611},
                                      {29, 0.00216657086},
                                      {31, 0.000856751401},
                                      {34, 0.000178507806},
                                      {35, 9.55621217e-05},
                                      {63, 3.06892588e-07}});
}

TEST_CASE("yarn scales long waves, keeps short ones, and scales cos and sin") {
  RopeParameters rope;
  rope.rope_type = "yarn";
  rope.rope_theta = 1e6;
  rope.factor = 4;
  rope.original_max_position_embeddings = 32768;
  check_vector(config_of(128, rope), {{0, 1},
                                      {20, 0.013335214},
                                      {30, 0.00106436096},
                                      {40, 4.44569851e-05},
                                      {50, 5.13381246e-06},
                                      {63, 3.10234441e-07}});
  CHECK(rope_frequencies(config_of(128, rope), 1, {}).attention_factor == doctest::Approx(1.13862944).epsilon(1e-8));

  rope.rope_theta = 1e4;  // DeepSeek-V3: mscale and mscale_all_dim cancel
  rope.factor = 40;
  rope.original_max_position_embeddings = 4096;
  rope.mscale = 1;
  rope.mscale_all_dim = 1;
  check_vector(
      config_of(64, rope),
      {{10, 0.0562341325}, {11, 0.0390069261}, {16, 0.00549999997}, {22, 0.00017782794}, {31, 3.33380353e-06}});
  CHECK(rope_frequencies(config_of(64, rope), 1, {}).attention_factor == 1);

  rope = {};  // gpt-oss: no truncation
  rope.rope_type = "yarn";
  rope.rope_theta = 1.5e5;
  rope.factor = 32;
  rope.original_max_position_embeddings = 4096;
  rope.truncate = false;
  check_vector(config_of(64, rope), {{8, 0.0508132763}, {12, 0.00679495931}, {20, 1.8188337e-05}, {31, 3.0235114e-07}});
}

TEST_CASE("latent attention scales its scores with yarn's mscale, and nothing else does") {
  ModelConfig config = config_of(192, {});  // DeepSeek-V3
  config.rope.factor = 40;
  config.rope.mscale_all_dim = 1;
  config.rope.rope_type = "yarn";
  CHECK(attention_scaling(config) == doctest::Approx(1 / std::sqrt(192.0)).epsilon(1e-15));
  config.latent.emplace();
  CHECK(attention_scaling(config) == doctest::Approx(0.13523378).epsilon(1e-7));
  config.rope.rope_type = "default";
  CHECK(attention_scaling(config) == doctest::Approx(1 / std::sqrt(192.0)).epsilon(1e-15));
}

TEST_CASE("dynamic and longrope look at the prompt's length, the others do not") {
  RopeParameters rope;
  rope.rope_type = "dynamic";
  rope.factor = 2;
  ModelConfig config = config_of(64, rope);
  config.max_position_embeddings = 100;
  CHECK(depends_on_length(config.rope));
  CHECK(rope_frequencies(config, 100, {}).inv_freq == rope_frequencies(config, 3, {}).inv_freq);
  const double theta = 1e4 * std::pow(2.0 * 300 / 100 - 1, 64.0 / 62.0);
  CHECK(rope_frequencies(config, 300, {}).inv_freq[31] == doctest::Approx(std::pow(theta, -62.0 / 64)).epsilon(1e-5));

  config.rope.rope_type = "longrope";
  config.rope.factor.reset();
  config.rope.original_max_position_embeddings = 50;
  config.rope.short_factor.assign(32, 1.0);
  config.rope.long_factor.assign(32, 4.0);
  CHECK(rope_frequencies(config, 50, {}).inv_freq[0] == 1.0f);
  CHECK(rope_frequencies(config, 51, {}).inv_freq[0] == 0.25f);
  CHECK(rope_frequencies(config, 1, {}).attention_factor ==
        doctest::Approx(std::sqrt(1 + std::log(2.0) / std::log(50.0))));
}

TEST_CASE("a GGUF's divisors slow the waves they belong to") {
  std::vector<float> divisors(32, 1.0f);
  divisors[5] = 8.0f;
  const ModelConfig config = config_of(64, {});
  const std::vector<float> plain = rope_frequencies(config, 1, {}).inv_freq;
  const std::vector<float> divided = rope_frequencies(config, 1, divisors).inv_freq;
  CHECK(divided[5] == plain[5] / 8);
  CHECK(divided[6] == plain[6]);
}

TEST_CASE("tables restart at 0 with every prompt and are rounded to the dtype") {
  const ModelConfig config = config_of(8, {});
  RopeTables tables(config, Dtype::bf16, {});
  const std::vector<std::int64_t> cu_seqlens = {0, 3, 8};
  std::vector<std::uint16_t> cos(8 * 4), sin(8 * 4);
  tables.fill(cu_seqlens, cos.data(), sin.data());
  for (std::size_t j = 0; j < 4; ++j) {
    CHECK(cos[j] == bf16_of_f32(1.0f));
    CHECK(cos[3 * 4 + j] == bf16_of_f32(1.0f));
    CHECK(sin[4 * 4 + j] == sin[1 * 4 + j]);
  }
  CHECK(sin[2 * 4] == bf16_of_f32(static_cast<float>(std::sin(2.0))));
}

}  // namespace layerprobe::model
