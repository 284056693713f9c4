#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "device/ops.h"
#include "model/config.h"
#include "model/tensors.h"
#include "weights/checkpoint.h"

namespace layerprobe::model {

/// A matrix or vector on a device that owns its memory.
struct OwnedTensor {
  device::Buffer buffer;
  device::Tensor tensor;
};

/// Experts of one layer: all, or some of them, by rising number.
struct Experts {
  std::unique_ptr<device::ExpertWeights> gate_up_proj;  // gate_proj, up_proj stacked
  std::unique_ptr<device::ExpertWeights> down_proj;
};

/// The weights of one decoder layer on one device, in the run's dtype.
struct LayerWeights {
  OwnedTensor input_layernorm;                     // [1, hidden_size]
  std::unique_ptr<device::MatMulWeight> qkv_proj;  // q_proj, k_proj, v_proj stacked
  OwnedTensor q_norm, k_norm;                      // [1, query_norm_size], [1, key_norm_size]; or without data
  // With LatentAttention qkv_proj is q_a_proj (or q_proj) and kv_a_proj_with_mqa, and beside it are:
  OwnedTensor q_a_layernorm, kv_a_layernorm;       // [1, q_lora_rank] (or without data), [1, kv_lora_rank]
  std::unique_ptr<device::MatMulWeight> q_b_proj;  // or nothing
  std::unique_ptr<device::MatMulWeight> kv_b_proj;
  std::unique_ptr<device::MatMulWeight> o_proj;
  OwnedTensor post_attention_layernorm;                // [1, hidden_size]
  std::unique_ptr<device::MatMulWeight> gate_up_proj;  // gate_proj, up_proj stacked
  std::unique_ptr<device::MatMulWeight> down_proj;
  // In a layer with experts the last two are those of mlp.shared_experts, or nothing, and beside them are:
  std::unique_ptr<device::MatMulWeight> router;  // mlp.gate
  OwnedTensor selection_bias;                    // [1, num_experts], f32 (f64); or without data
  Experts experts;                               // all; or nothing, and then:
  /// Brings those of the layer that tokens chose, at least one.
  std::function<Experts(std::span<const std::int64_t> chosen)> bring_experts;
};

/// Brings a checkpoint's tensors to a device, converted to one dtype. What is queued is there after start() and
/// finish().
class WeightLoader {
 public:
  /// `read` is told the bytes that have been read, as the checkpoint stores them, often; what it throws ends the
  /// loading.
  WeightLoader(const ModelConfig& config, const weights::Checkpoint& checkpoint, Dtype dtype, device::Ops& ops,
               std::function<void(std::uint64_t bytes)> read);

  /// Each queues.
  LayerWeights layer(std::int64_t layer, bool with_experts = true);
  Experts experts(std::int64_t layer, std::span<const std::int64_t> chosen);
  OwnedTensor embedding();                          // [vocab_size, hidden_size]
  OwnedTensor norm();                               // [1, hidden_size]
  std::unique_ptr<device::MatMulWeight> lm_head();  // throws Error(input) when the checkpoint has none
  std::unique_ptr<device::Loads> start() { return ops_.start_loads(); }
  void finish(device::Loads& loads) { loads.wait(read_); }

  std::vector<float> rope_divisors();  // a GGUF's rope_freqs.weight, at once; empty when there is none

  /// What a tensor will take of the device's memory.
  std::uint64_t loaded_bytes(const ExpectedTensor& tensor) const {
    return model::loaded_bytes(tensor, checkpoint_, dtype_, ops_.keeps_fp8());
  }
  /// What layer(), embedding(), ... will read, in the checkpoint's own bytes.
  std::uint64_t layer_bytes(std::int64_t layer, bool with_experts = true) const;
  std::uint64_t embedding_bytes() const;
  std::uint64_t norm_bytes() const;
  std::uint64_t lm_head_bytes() const;

 private:
  device::StoredValues stored(const std::string& name) const;
  device::StoredValues scaled(const weights::TensorInfo& info) const;  // an FP8 matrix and its factors
  OwnedTensor tensor(const std::string& name);
  /// A module's weight, and its bias where it has one.
  struct Linear {
    std::string module;
    bool has_bias;
  };
  std::unique_ptr<device::MatMulWeight> stacked(std::initializer_list<Linear> linears);
  void load_latent_attention(const std::string& attn, LayerWeights& out);
  void load_router(std::int64_t layer, LayerWeights& out);
  /// The matrix of one expert, of the tensor that has those of all.
  device::StoredValues of_expert(const ExpectedTensor& all, std::int64_t expert) const;
  OwnedTensor selection_bias(const std::string& name);
  std::uint64_t stored_bytes(const std::string& name) const;

  const ModelConfig& config_;
  const weights::Checkpoint& checkpoint_;
  Dtype dtype_;
  device::Ops& ops_;
  std::function<void(std::uint64_t)> read_;
};

}  // namespace layerprobe::model
