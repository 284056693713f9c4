#include "base/json.h"
#include "model/config.h"
#include "model/rope.h"
#include "model/tensors.h"
#include "plan/plan.h"
#include "tests/fuzz/targets.h"

namespace layerprobe::fuzz {

void config_json(std::string_view bytes) {
  expect_answer([&] {
    const model::ModelConfig config = model::read_config(Json::parse(bytes, "config.json"), "config.json");
    for (const std::int64_t length : {1, 5000}) model::rope_frequencies(config, length, {});
    if (config.num_hidden_layers > 100) return;  // takes its time, and is no different
    for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) model::layer_tensors(config, layer);
    const Prompts prompts = {.input_ids = {0, 0, 0}, .cu_seqlens = {0, 1, 3}, .texts = {}};
    plan::make_plan(config, config.dtype.value_or(Dtype::bf16), prompts, {.test_type = plan::TestType::full});
  });
}

}  // namespace layerprobe::fuzz
