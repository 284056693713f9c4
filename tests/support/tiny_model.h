#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <string>
#include <vector>

#include "base/json.h"
#include "model/config.h"
#include "model/tensors.h"
#include "runtime/random.h"
#include "tests/support/model_files.h"

namespace layerprobe::test {

/// config.json of a lively little decoder: odd sizes, grouped heads, head_dim that is not hidden_size / heads.
inline const char* kTinyConfig =
    R"({"model_type": "llama", "vocab_size": 61, "hidden_size": 36, "intermediate_size": 50,
  "num_hidden_layers": 3, "num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 16, "torch_dtype": "bfloat16",
  "max_position_embeddings": 64, "rms_norm_eps": 1e-5, "tie_word_embeddings": false})";

/// Writes such a model into `folder` with random f32 weights; `change` may edit a tensor's values on their way.
inline void write_tiny_model(
    const TempFolder& folder, const std::string& config_text = kTinyConfig,
    const std::function<void(const std::string& name, std::vector<float>& values)>& change = [](const auto&, auto&) {
    }) {
  const Json config_json = Json::parse(config_text, "config.json");
  const model::ModelConfig config = model::read_config(config_json, "config.json");
  std::vector<model::ExpectedTensor> tensors = {model::embedding_tensor(config), model::norm_tensor(config)};
  if (!config.tie_word_embeddings) tensors.push_back(model::lm_head_tensor(config));
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (model::ExpectedTensor& tensor : model::layer_tensors(config, layer)) tensors.push_back(std::move(tensor));
  }
  Json header;
  std::string data;
  std::uint64_t seed = 0;
  for (const model::ExpectedTensor& tensor : tensors) {
    std::int64_t count = 1;
    Json shape(Json::Array{});
    for (const std::int64_t size : tensor.shape) {
      count *= size;
      shape.push(size);
    }
    std::vector<double> normal(static_cast<std::size_t>(count));
    runtime::random_normal(++seed, 0, normal);
    const bool is_norm = tensor.shape.size() == 1;
    std::vector<float> values;
    for (const double value : normal) values.push_back(static_cast<float>(is_norm ? 1 + 0.1 * value : 0.2 * value));
    change(tensor.name, values);
    Json info;
    info.set("dtype", "F32");
    info.set("shape", shape);
    const std::uint64_t begin = data.size();
    data += raw(values);
    info.set("data_offsets", Json::Array{Json(begin), Json(std::uint64_t{data.size()})});
    header.set(tensor.name, info);
  }
  folder.write("config.json", config_text);
  folder.write("model.safetensors", safetensors(header.dump(), data));
}

}  // namespace layerprobe::test
