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

namespace layerprobe::runtime {

/// The values of one prompt's last (or other kept) token that `full` ranks: the largest logits of a row.
struct TopK {
  std::vector<std::int32_t> ids;  // [top_k], by falling logit, the lower id first among equals
  std::vector<float> logits;      // [top_k]
};

/// Part of a model on one device, and the walk of a batch through it: embedding, layers, norm, head, as the plan says.
/// One thread.
class ForwardPass {
 public:
  /// `rank` is given the largest logits of each kept row, by its number in the file; only where the plan has a top_k.
  ForwardPass(const model::ModelConfig& config, const plan::Plan& plan, const Prompts& prompts, device::Ops& ops,
              capture::Recorder& recorder, std::function<void(std::int64_t row, const TopK&)> rank);

  /// Loads the weights of `layers` (an unbroken range of the plan's), and of embedding, norm and head where the plan
  /// runs them. What was loaded before goes.
  void load(model::WeightLoader& loader, std::span<const std::int64_t> layers);

  /// From the embedding through all loaded layers and to the plan's end.
  void run_from_ids(const capture::Batch& batch);
  /// From `hidden_states` (on the host, [num_tokens, hidden_size] in the plan's dtype), which enter `first_layer`, one
  /// of those loaded or the one behind the last. `progress` below as in run_from_ids.
  void run_from_hidden_states(const capture::Batch& batch, std::int64_t first_layer,
                              std::span<const std::byte> hidden_states);

  /// Called after each layer with the tokens that went through it.
  std::function<void(std::int64_t tokens)> after_layer = [](std::int64_t) {};

 private:
  /// In the plan's dtype, of what load() still has to bring for `layers_`.
  std::size_t bytes_to_load(const model::WeightLoader& loader) const;
  void prepare(const capture::Batch& batch);
  void run_layers(const capture::Batch& batch, std::int64_t first_layer);
  void run_head(const capture::Batch& batch);
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

  std::vector<std::int64_t> layers_;
  std::vector<model::LayerWeights> weights_;
  std::optional<model::OwnedTensor> embedding_, norm_;
  std::unique_ptr<device::MatMulWeight> lm_head_;
  std::optional<model::RopeTables> rope_;
  std::optional<model::Activations> activations_;
  std::int64_t max_tokens_ = 0;
  std::vector<std::byte> cos_, sin_;  // on the host
};

}  // namespace layerprobe::runtime
