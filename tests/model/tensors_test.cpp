#include "model/tensors.h"

#include <doctest/doctest.h>

#include <string>

#include "base/error.h"
#include "base/file.h"
#include "tests/support/places.h"
#include "tests/support/temp_folder.h"

namespace layerprobe::model {
namespace {

/// Of bytes that are there, another text of the same length: a safetensors header stays as long as it was.
std::string replaced(std::string bytes, const std::string& from, const std::string& to) {
  const std::size_t at = bytes.find(from);
  REQUIRE(at != std::string::npos);
  return bytes.replace(at, from.size(), to);
}

/// What is said of a checkpoint of tests/data/parity when its config.json and its weights are these.
std::string complaint(const std::string& config, const std::string& weights) {
  const test::TempFolder folder;
  folder.write("config.json", config);
  folder.write("model.safetensors", weights);
  try {
    const weights::Checkpoint checkpoint = weights::Checkpoint::open(folder.path().string());
    check_tensors(read_config(checkpoint.config(), "config.json"), checkpoint);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

struct Files {
  explicit Files(const std::string& name) {
    const std::filesystem::path folder = test::root_folder() / "tests/data/parity" / name;
    config = read_text_file((folder / "config.json").string());
    weights = read_text_file((folder / "model.safetensors").string());
  }
  std::string config, weights;
};

void says(const std::string& complaint, const std::string& words) {
  CAPTURE(complaint);
  CHECK(complaint.find(words) != std::string::npos);
}

}  // namespace

TEST_CASE("FP8 tensors without their factors, or with others, are refused by name") {
  const Files sound("qwen3-fp8");
  CHECK(complaint(sound.config, sound.weights).empty());
  says(complaint(replaced(sound.config, "\"quantization_config\"", "\"transformers_weights\""), sound.weights),
       "is F8_E4M3 where config.json has no quantization_config");
  says(complaint(sound.config, replaced(sound.weights, "up_proj.weight_scale_inv", "up_proj.weight_scale_off")),
       "mlp.up_proj.weight: is F8_E4M3 and has no model.layers.");
  const std::size_t size = sound.config.find("\"weight_block_size\"");
  const std::size_t end = sound.config.find(']', size);
  std::string smaller = sound.config;
  smaller.replace(size, end + 1 - size, "\"weight_block_size\": [32, 32]");
  says(complaint(smaller, sound.weights), "where blocks of [32, 32] need [");
  says(complaint(sound.config, replaced(sound.weights, "\"F8_E4M3\"", "\"F8_E5M2\"")), "is F8_E5M2 of shape [");
}

TEST_CASE("experts that the config does not have, or the checkpoint, are refused by name") {
  const Files sound("minimax-m2");
  CHECK(complaint(sound.config, sound.weights).empty());
  says(complaint(replaced(sound.config, "\"num_local_experts\": 9", "\"num_local_experts\": 8"), sound.weights),
       "block_sparse_moe.gate.weight: shape is [9, 40] where config.json says [8, 40]");
  says(complaint(sound.config, replaced(sound.weights, ".experts.3.w2.weight", ".experts.9.w2.weight")),
       "has no tensor model.layers.");
}

TEST_CASE("a vision tower is left alone, and experts in one tensor lie either way round") {
  for (const char* name : {"qwen3-vl-moe", "qwen3-vl-moe-as-published"}) {
    const Files sound(name);
    CHECK(complaint(sound.config, sound.weights).empty());
    says(complaint(replaced(sound.config, "\"num_local_experts\": 8", "\"num_local_experts\": 9"), sound.weights),
         "mlp.gate.weight: shape is [8, 32] where config.json says [9, 32]");
    says(complaint(replaced(sound.config, "\"moe_intermediate_size\": 8", "\"moe_intermediate_size\": 4"),
                   sound.weights),
         "mlp.experts.gate_up_proj: shape is [8, ");
    says(complaint(sound.config, replaced(sound.weights, "model.visual.pos_embed", "model.sounds.pos_embed")),
         "with this config.json has no use for: model.sounds.pos_embed.weight");
  }
}

TEST_CASE("layers behind the last that predict further tokens are left alone, and other layers are not") {
  const Files sound("deepseek-v3");
  CHECK(complaint(sound.config, sound.weights).empty());
  // Two layers of three: the third would be the one behind the last if it had an eh_proj.
  const std::string fewer = replaced(sound.config, "\"num_hidden_layers\": 3", "\"num_hidden_layers\": 2");
  says(complaint(fewer, sound.weights), "with this config.json has no use for: model.layers.2.");
  const std::string predicting =
      replaced(sound.weights, "model.layers.2.self_attn.o_proj.weight\"", "model.layers.2.eh_proj.weight\"         ");
  CHECK(complaint(fewer, predicting).empty());
  says(complaint(replaced(fewer, "\"num_nextn_predict_layers\": 1", "\"num_nextn_predict_layers\": 0"), predicting),
       "with this config.json has no use for: model.layers.2.");
}

}  // namespace layerprobe::model
