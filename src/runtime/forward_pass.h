#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/prompts.h"
#include "capture/recorder.h"
#include "device/ops.h"
#include "model/decoder_layer.h"
#include "model/rope.h"
#include "model/weights.h"
#include "plan/plan.h"
#include "runtime/stages.h"

namespace layerprobe::runtime {

/// The values of one prompt's last (or other kept) token that `full` ranks: the largest logits of a row.
struct TopK {
  std::vector<std::int32_t> ids;  // [top_k], by falling logit, the lower id first among equals
  std::vector<float> logits;      // [top_k]
};

/// The weights of one module on one device.
struct ModuleWeights {
  model::LayerWeights layer;
  model::OwnedTensor tensor;  // of the embedding, or of the norm
  std::unique_ptr<device::MatMulWeight> head;
};

/// Modules of a model on one device: what each makes of a batch's hidden states, with what is kept on the way. States
/// are [num_tokens, hidden_size]. One thread.
class ForwardPass {
 public:
  /// `rank` is given the largest logits of each kept row, by its number in the file; only where the plan has a top_k.
  ForwardPass(const model::ModelConfig& config, const plan::Plan& plan, const Prompts& prompts, device::Ops& ops,
              capture::Recorder& recorder, std::function<void(std::int64_t row, const TopK&)> rank);

  /// Queues the loading.
  ModuleWeights load(model::WeightLoader& loader, const RunModule& module, bool with_experts = true);
  /// What the device needs for that, in bytes.
  std::size_t weights_bytes(const model::WeightLoader& loader, const RunModule& module) const;

  /// Takes memory for batches of at most `max_tokens`, and for the rotations of `num_batches` that come in turn.
  /// `are_sent`: states go to other devices from their places.
  void prepare(std::int64_t max_tokens, std::size_t num_batches, std::vector<float> rope_divisors, bool are_sent);
  /// Two places for states, and one where those of a batch begin while both others are still copied out; a batch of
  /// fewer tokens takes a part of them.
  device::Tensor place(std::size_t index, std::int64_t num_tokens) const;
  device::Tensor first_place(std::int64_t num_tokens) const;

  /// The embedding has no `in`. Of the head nothing comes out. `out` may be `in`. Either is a place from above, or any
  /// other.
  void run(const RunModule& module, const ModuleWeights& weights, const capture::Batch& batch, const device::Tensor& in,
           const device::Tensor& out);

 private:
  /// cos and sin of one batch.
  struct Rotation {
    std::vector<std::int64_t> cu_seqlens;
    device::Buffer buffer;
    device::Tensor cos, sin;
  };
  const Rotation& rotation_of(const capture::Batch& batch);
  void run_layer(const RunModule& module, const model::LayerWeights& weights, const capture::Batch& batch,
                 const device::Tensor& in, const device::Tensor& out);
  void run_head(const device::MatMulWeight& head_weight, const capture::Batch& batch, const device::Tensor& normed);
  model::Observe observer(const capture::Batch& batch, std::int64_t layer);
  void record(std::string_view name, const capture::Batch& batch, const device::Tensor& value);

  const model::ModelConfig& config_;
  const plan::Plan& plan_;
  const Prompts& prompts_;
  device::Ops& ops_;
  capture::Recorder& recorder_;
  std::function<void(std::int64_t, const TopK&)> rank_;
  // Of each layer (by its number) and value suffix, the plan's points that keep it.
  std::vector<std::vector<std::pair<std::string_view, std::size_t>>> kept_;

  std::optional<model::RopeTables> rope_;
  std::optional<model::Activations> activations_;
  std::int64_t max_tokens_ = 0;
  std::vector<Rotation> rotations_;
  std::size_t num_rotations_ = 1, next_rotation_ = 0;
  std::vector<std::byte> cos_, sin_;  // on the host
};

}  // namespace layerprobe::runtime
