#pragma once

#include <cstdint>

#include "base/dtype.h"
#include "base/prompts.h"
#include "model/config.h"
#include "placement/module_tree.h"
#include "placement/placement.h"
#include "plan/plan.h"
#include "weights/checkpoint.h"

namespace layerprobe::plan {

/// What predictions count with, a second.
struct Rates {
  double flops = 0;            // of matrix products and attention, everything between them included
  double memory_bytes = 0;     // a device's own
  double host_bytes = 0;       // between the host and one device, in each direction
  double disk_read_bytes = 0;  // weights from where they are, to all devices at once
  double disk_write_bytes = 0;
  double expert_product_seconds = 0;  // what each product of an expert takes, however few its rows, beyond `flops`
};
/// An H100's, sustained, and the disk's: docs/placement.md says by what they were measured. `multiplies_fp8`:
/// --fp8-math w8a8.
Rates gpu_rates(Dtype dtype, std::size_t num_gpus, bool model_in_memory, bool output_in_memory, bool multiplies_fp8);
/// Of so many cores with AVX-512 BF16.
Rates cpu_rates(Dtype dtype, unsigned num_cores, bool model_in_memory, bool output_in_memory);

/// The whole model as transformers registers it, in `dtype`: what its own strategies see. Buffers are those of the
/// rotation, in f32.
placement::TreeModule module_tree(const model::ModelConfig& config, Dtype dtype);

/// Micro-batches as the prompts are packed: neighbours, up to `tokens_per_batch`, a longer prompt by itself.
std::int64_t count_micro_batches(const Prompts& prompts, std::int64_t tokens_per_batch);
/// Tokens of the largest of them.
std::int64_t largest_micro_batch(const Prompts& prompts, std::int64_t tokens_per_batch);

/// What runs, with its sizes and predicted times: compute 2 * parameters * tokens operations, and
/// 2 * heads * (head_dim + value_head_dim) for each pair of a token and one that it sees. `keeps_fp8`: the devices do.
placement::Work work_of(const model::ModelConfig& config, const weights::Checkpoint& checkpoint, const Plan& plan,
                        const Prompts& prompts, const Rates& rates, bool keeps_fp8);

/// A micro-batch of a model with experts has this many times the tokens of a dense one's, so that an expert's products
/// have rows enough: its tokens are a share of the batch's.
std::int64_t batch_factor(const model::ModelConfig& config);

/// What of a device's memory is not for weights.
struct Reserve {
  std::uint64_t context_bytes = 0;
  std::uint64_t workspace_bytes = 0;    // of products, and of the logits
  std::uint64_t activations_bytes = 0;  // of one micro-batch
  std::uint64_t rings_bytes = 0;   // captures on their way out; hidden states on their way in from the stage before
  std::uint64_t states_bytes = 0;  // hidden states that wait while the rest of their wave passes

  std::uint64_t total() const {
    return context_bytes + workspace_bytes + activations_bytes + rings_bytes + states_bytes;
  }
};
Reserve reserve_of(const model::ModelConfig& config, const Plan& plan, const Prompts& prompts,
                   std::int64_t tokens_per_batch, bool is_gpu, std::size_t num_devices);

/// What of a device's memory micro-batches of a wave take while others of it pass, and layers come and go.
struct WaveStates {
  std::uint64_t rotation_bytes = 0;  // cos and sin of a micro-batch
  std::uint64_t hidden_bytes = 0;    // hidden states of a micro-batch
  std::int64_t num_micro_batches = 1;

  std::uint64_t rotations() const { return rotation_bytes * static_cast<std::uint64_t>(num_micro_batches); }
  std::uint64_t total() const {
    return (rotation_bytes + hidden_bytes) * static_cast<std::uint64_t>(num_micro_batches);
  }
};
WaveStates wave_states(const model::ModelConfig& config, Dtype dtype, std::int64_t largest_batch,
                       std::int64_t num_micro_batches, std::int64_t num_waves);

}  // namespace layerprobe::plan
