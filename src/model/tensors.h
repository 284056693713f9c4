#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "model/config.h"
#include "weights/checkpoint.h"

namespace layerprobe::model {

/// A tensor that the config says a checkpoint has, under the name that checkpoints of the family give it.
struct ExpectedTensor {
  std::string name;
  std::vector<std::int64_t> shape;
  bool may_be_transposed = false;  // its last two axes, if they are not of one size
};

/// "model.layers.17": how tensors and placements call a layer.
std::string layer_module(std::int64_t layer);

/// In `dtype`.
std::uint64_t bytes_of(const ExpectedTensor& tensor, Dtype dtype);

/// Those of one layer, without those of the others.
std::vector<ExpectedTensor> layer_tensors(const ModelConfig& config, std::int64_t layer);
/// Of a layer with experts: the matrices of all of them; the router's weight, its bias where it has one, and an
/// expert's matrices.
std::vector<ExpectedTensor> expert_tensors(const ModelConfig& config, std::int64_t layer);
std::string router_name(const ModelConfig& config, std::int64_t layer);
std::string selection_bias_name(const ModelConfig& config, std::int64_t layer);
struct ExpertTensorNames {
  std::string gate_proj, up_proj, down_proj;
};
/// Not of fused experts.
ExpertTensorNames expert_names(const ModelConfig& config, std::int64_t layer, std::int64_t expert);
/// Of a layer with fused experts: [num_experts, 2 * moe_intermediate_size, hidden_size], the gate's rows first, and
/// [num_experts, hidden_size, moe_intermediate_size]; checkpoints have them transposed.
struct FusedExpertTensors {
  ExpectedTensor gate_up_proj, down_proj;
};
FusedExpertTensors fused_experts(const ModelConfig& config, std::int64_t layer);
/// model.embed_tokens.weight
ExpectedTensor embedding_tensor(const ModelConfig& config);
/// model.norm.weight
ExpectedTensor norm_tensor(const ModelConfig& config);
/// lm_head.weight, or model.embed_tokens.weight where the config ties them.
ExpectedTensor lm_head_tensor(const ModelConfig& config);

/// Where a checkpoint keeps the factors of the F8_E4M3 matrix of that name.
inline std::string scales_name(const std::string& weight) { return weight + "_scale_inv"; }
/// What a tensor takes on a device that computes in `dtype`, and keeps FP8 as it is if `keeps_fp8`.
std::uint64_t loaded_bytes(const ExpectedTensor& tensor, const weights::Checkpoint& checkpoint, Dtype dtype,
                           bool keeps_fp8);

/// The config as far as the checkpoint's headers decide: transformers keeps a router of an FP8 checkpoint in the dtype
/// that the file has it in, where the file calls its module otherwise.
void take_stored_dtypes(ModelConfig& config, const weights::Checkpoint& checkpoint);

/// Holds the checkpoint against its config. Throws Error(input) naming tensors that are missing, of another shape, or
/// belong to the decoder but are not known (they would change the math). Returns the names of those that are there and
/// not used: rotary_emb.inv_freq of old checkpoints, a stale lm_head beside tied embeddings, other towers.
std::vector<std::string> check_tensors(const ModelConfig& config, const weights::Checkpoint& checkpoint);

}  // namespace layerprobe::model
