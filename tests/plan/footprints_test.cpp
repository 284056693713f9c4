#include "plan/footprints.h"

#include <doctest/doctest.h>

#include "runtime/schedule.h"
#include "tests/support/tiny_model.h"

namespace layerprobe::plan {
namespace {

model::ModelConfig config_of(const char* text) {
  return model::read_config(Json::parse(text, "config.json"), "config.json");
}

Prompts prompts_of(const std::vector<std::int64_t>& lengths) {
  Prompts prompts;
  prompts.cu_seqlens = {0};
  for (const std::int64_t length : lengths) prompts.cu_seqlens.push_back(prompts.cu_seqlens.back() + length);
  prompts.input_ids.resize(static_cast<std::size_t>(prompts.num_tokens()));
  return prompts;
}

}  // namespace

TEST_CASE("micro-batches are counted as a run packs them") {
  const Prompts prompts = prompts_of({3, 4, 9, 1, 1, 1, 20, 2, 8, 5, 5});
  const model::ModelConfig config = config_of(test::kTinyConfig);
  for (std::int64_t tokens_per_batch = 1; tokens_per_batch < 70; ++tokens_per_batch) {
    CAPTURE(tokens_per_batch);
    const Plan plan = make_plan(config, Dtype::bf16, prompts, {.tokens_per_batch = tokens_per_batch});
    const auto tasks = runtime::schedule(plan, prompts, [](std::size_t, std::int64_t) { return false; });
    std::int64_t largest = 0;
    for (const runtime::Task& task : tasks) largest = std::max(largest, task.batch.num_tokens());
    CHECK(count_micro_batches(prompts, tokens_per_batch) == static_cast<std::int64_t>(tasks.size()));
    CHECK(largest_micro_batch(prompts, tokens_per_batch) >= largest);
  }
}

TEST_CASE("the tree has transformers' sizes") {
  const auto bytes = [](const char* config) { return module_tree(config_of(config), Dtype::bf16).bytes; };
  CHECK(bytes(R"({"model_type": "llama", "vocab_size": 128256, "hidden_size": 4096, "intermediate_size": 14336,
      "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8})") == 16060523008);
  CHECK(bytes(R"({"model_type": "qwen2", "vocab_size": 151936, "hidden_size": 896, "intermediate_size": 4864,
      "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": true})") ==
        988065792);
}

TEST_CASE("attention counts the pairs of tokens that see each other, within the window") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);
  const weights::Checkpoint checkpoint = weights::Checkpoint::open(folder.path().string());
  model::ModelConfig config = config_of(test::kTinyConfig);
  const Rates rates = {.flops = 1, .memory_bytes = 1e300, .host_bytes = 1, .disk_read_bytes = 1, .disk_write_bytes = 1};
  const Prompts prompts = prompts_of({5, 2});
  const auto layer_flops = [&] {
    const Plan plan = make_plan(config, Dtype::bf16, prompts, {.tokens_per_batch = 8});
    return work_of(config, checkpoint, plan, prompts, rates, /*keeps_fp8=*/false).modules.at(1).compute_seconds;
  };
  const double query = 3 * 16, key_value = 16, hidden = 36, intermediate = 50;
  const double parameters = hidden * (2 * query + 2 * key_value + 3 * intermediate);
  CHECK(layer_flops() == doctest::Approx(2 * parameters * 7 + 4 * query * (15 + 3)));
  config.sliding_window[0] = 3;
  CHECK(layer_flops() == doctest::Approx(2 * parameters * 7 + 4 * query * (12 + 3)));
}

TEST_CASE("streaming reads what the checkpoint stores and brings what a device holds") {
  const test::TempFolder folder;
  test::write_tiny_model(folder);  // f32 on the disk
  const weights::Checkpoint checkpoint = weights::Checkpoint::open(folder.path().string());
  const model::ModelConfig config = config_of(test::kTinyConfig);
  const Rates rates = {.flops = 1, .memory_bytes = 1, .host_bytes = 1, .disk_read_bytes = 1, .disk_write_bytes = 1};
  const Prompts prompts = prompts_of({4});
  const Plan plan = make_plan(config, Dtype::bf16, prompts, {.tokens_per_batch = 8});
  const placement::Work work = work_of(config, checkpoint, plan, prompts, rates, /*keeps_fp8=*/false);
  REQUIRE(work.modules.size() == 5);
  CHECK(work.modules[0].weights_bytes == 61 * 36 * 2);
  CHECK(work.modules[0].bring_seconds == 61 * 36 * 2);
  CHECK(work.modules[0].read_seconds == 61 * 36 * 4);
  CHECK(work.modules[1].capture_seconds == 4 * 36 * 2);
}

TEST_CASE("a GPU that keeps FP8 has room for the largest weight that is expanded whole") {
  const model::ModelConfig config = config_of(R"({"model_type": "deepseek_v3", "quantization_config":
      {"quant_method": "fp8", "activation_scheme": "dynamic", "fmt": "e4m3", "weight_block_size": [128, 128]}})");
  const Prompts prompts = prompts_of({4});
  const auto workspace = [&](Dtype dtype) {
    const Plan plan = make_plan(config, dtype, prompts, {.tokens_per_batch = 8});
    return reserve_of(config, plan, prompts, 8, /*is_gpu=*/true, 1).workspace_bytes;
  };
  const std::uint64_t gate_up = 7168 * 2 * 18432;  // elements of mlp.gate_proj and up_proj
  const std::uint64_t padded = 2 * 4 * 128 * 192;  // of keys and values, which attention wants equally wide
  CHECK(workspace(Dtype::f32) >= (gate_up + padded) * 4);
  CHECK(workspace(Dtype::f64) - workspace(Dtype::f32) == (gate_up + padded) * 4);
}

}  // namespace layerprobe::plan
