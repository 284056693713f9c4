#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "weights/checkpoint.h"

namespace layerprobe::model {

/// A tensor that the config says a checkpoint has, under transformers' name.
struct ExpectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
};

/// In `dtype`.
std::uint64_t bytes_of(const ExpectedTensor& tensor, Dtype dtype);

/// Those of one layer, without those of the others.
std::vector<ExpectedTensor> layer_tensors(const ModelConfig& config, std::int64_t layer);
/// model.embed_tokens.weight
ExpectedTensor embedding_tensor(const ModelConfig& config);
/// model.norm.weight
ExpectedTensor norm_tensor(const ModelConfig& config);
/// lm_head.weight, or model.embed_tokens.weight where the config ties them.
ExpectedTensor lm_head_tensor(const ModelConfig& config);

/// Holds the checkpoint against its config. Throws Error(input) naming tensors that are missing, of another shape, or
/// belong to the decoder but are not known (they would change the math). Returns the names of those that are there and
/// not used: rotary_emb.inv_freq of old checkpoints, a stale lm_head beside tied embeddings, other towers.
std::vector<std::string> check_tensors(const ModelConfig& config, const weights::Checkpoint& checkpoint);

}  // namespace layerprobe::model
