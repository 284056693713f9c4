#include "plan/footprints.h"

#include <algorithm>
#include <string>
#include <unordered_map>
#include <vector>

#include "base/text.h"
#include "model/decoder_layer.h"
#include "model/points.h"
#include "model/tensors.h"

namespace layerprobe::plan {
namespace {

// CUDA's 600 MB with its libraries' kernels; beside it what nobody asks for by name: the trials of products,
// statistics, weights that are converted on their way.
constexpr std::uint64_t kContextBytes = 1'100'000'000;
constexpr std::uint64_t kWorkspaceBytes = std::uint64_t{32} << 20;  // of the products
constexpr std::uint64_t kLogitsBytes = std::uint64_t{16} << 20;     // as runtime/forward_pass.cpp takes them
constexpr std::uint64_t kFp8Bytes = std::uint64_t{512} << 20;       // groups of experts expanded, or inputs rounded
constexpr std::int64_t kRingSlots = 3;                              // values that may be on their way out at once

/// Token pairs of causal attention: each token sees itself and those before it, `window` at most where that is not 0.
double seen_pairs(const Prompts& prompts, std::int64_t window) {
  double pairs = 0;
  for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
    const auto length = static_cast<double>(prompts.length(prompt));
    const double seen = window > 0 ? std::min(length, static_cast<double>(window)) : length;
    pairs += seen * (seen + 1) / 2 + (length - seen) * seen;
  }
  return pairs;
}

double product_elements(const model::ExpectedTensor& tensor) {
  if (tensor.shape.size() < 2) return 0;
  double elements = 1;
  for (const std::int64_t size : tensor.shape) elements *= static_cast<double>(size);
  return elements;
}

/// Of the weights outside the experts, each of which is expanded whole for its product.
std::uint64_t largest_dense_bytes(const model::ModelConfig& config, Dtype dtype) {
  std::int64_t features = std::max(config.qkv_size(), config.attention_size());
  if (config.has_dense_layers()) features = std::max(features, 2 * config.intermediate_size);
  if (config.experts) features = std::max(features, 2 * config.experts->shared_intermediate_size);
  return static_cast<std::uint64_t>(config.hidden_size * features) * size_of(dtype);
}

/// "model.layers.17" of every point in that layer; a point outside the layers without its ":input".
std::string module_of(const std::string& point, const model::ModelConfig& config) {
  const int layer = layer_of(point);
  if (layer >= 0) return model::layer_module(layer);
  const std::string module = point.substr(0, point.find(':'));
  return module.starts_with(config.decoder + ".") ? "model" + module.substr(config.decoder.size()) : module;
}

std::uint64_t row_bytes(const ProbePoint& point) {
  return static_cast<std::uint64_t>(point.width) * size_of(point.dtype);
}

/// Collects a run's modules, each with its tensors.
class Modules {
 public:
  Modules(const weights::Checkpoint& checkpoint, Dtype dtype, const Rates& rates, bool keeps_fp8)
      : checkpoint_(checkpoint), dtype_(dtype), rates_(rates), keeps_fp8_(keeps_fp8) {}

  /// `tokens` go through its matrices; `moved_bytes` and `attention` operations come on top.
  /// Through an expert's matrices goes this share of them, about: each token chooses a few.
  double experts_share = 1;

  void add(std::string name, bool is_layer, std::span<const model::ExpectedTensor> tensors, double tokens,
           double attention, double moved_bytes) {
    placement::Module module{.name = std::move(name), .is_layer = is_layer};
    double flops = attention;
    std::uint64_t stored = 0, of_experts = 0;
    for (const model::ExpectedTensor& tensor : tensors) {
      module.weights_bytes += model::loaded_bytes(tensor, checkpoint_, dtype_, keeps_fp8_);
      flops += 2 * tokens * product_elements(tensor) * (is_of_experts(tensor.name) ? experts_share : 1);
      const weights::TensorInfo* info = checkpoint_.find(tensor.name);
      if (info == nullptr) continue;
      stored += info->bytes;
      if (is_of_experts(tensor.name)) of_experts += info->bytes;
    }
    module.compute_seconds = flops / rates_.flops + moved_bytes / rates_.memory_bytes;
    module.bring_seconds = static_cast<double>(std::min(stored, module.weights_bytes)) / rates_.host_bytes;
    module.read_seconds = static_cast<double>(stored) / rates_.disk_read_bytes;
    if (stored > 0) module.experts_share = static_cast<double>(of_experts) / static_cast<double>(stored);
    modules_.push_back(std::move(module));
  }

  std::vector<placement::Module> take() { return std::move(modules_); }

 private:
  static bool is_of_experts(const std::string& tensor) { return tensor.find(".experts.") != tensor.npos; }

  const weights::Checkpoint& checkpoint_;
  const Dtype dtype_;
  const Rates& rates_;
  const bool keeps_fp8_;
  std::vector<placement::Module> modules_;
};

}  // namespace

Rates gpu_rates(Dtype dtype, std::size_t num_gpus, bool model_in_memory, bool output_in_memory, bool multiplies_fp8) {
  Rates rates = cpu_rates(dtype, 1, model_in_memory, output_in_memory);
  rates.flops = dtype == Dtype::f64 ? 51.5e12 : dtype == Dtype::f32 ? 49.5e12 : 600e12;
  rates.expert_product_seconds = 18e-6;
  if (multiplies_fp8) {
    rates.flops = 650e12;
    rates.expert_product_seconds = 7e-6;
  }
  rates.memory_bytes = 3e12;
  rates.host_bytes = 50e9;
  if (model_in_memory) rates.disk_read_bytes = num_gpus > 1 ? 62e9 : 42e9;
  return rates;
}

Rates cpu_rates(Dtype dtype, unsigned num_cores, bool model_in_memory, bool output_in_memory) {
  const double flops_a_core = dtype == Dtype::f64 ? 5e9 : dtype == Dtype::f32 ? 60e9 : 115e9;
  return {.flops = flops_a_core * std::max(num_cores, 1u),
          .memory_bytes = 20e9,
          .host_bytes = 10e9,
          .disk_read_bytes = model_in_memory ? 10e9 : 1.5e9,
          .disk_write_bytes = output_in_memory ? 23e9 : 1.2e9,
          .expert_product_seconds = 0};
}

placement::TreeModule module_tree(const model::ModelConfig& config, Dtype dtype) {
  placement::TreeModule root;
  const auto add = [&](const model::ExpectedTensor& tensor) {
    placement::add_tensor(root, {.name = tensor.name, .bytes = model::bytes_of(tensor, dtype)});
  };
  add(model::embedding_tensor(config));
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    for (const model::ExpectedTensor& tensor : model::layer_tensors(config, layer)) add(tensor);
    root.children[0].children[1].children.back().is_no_split = true;
  }
  add(model::norm_tensor(config));
  const auto rotary_bytes = static_cast<std::uint64_t>(config.rotary_dim / 2) * size_of(Dtype::f32);
  for (const char* name : {"model.rotary_emb.inv_freq", "model.rotary_emb.original_inv_freq"}) {
    placement::add_tensor(root, {.name = name, .bytes = rotary_bytes}, /*is_buffer=*/true);
  }
  const model::ExpectedTensor head = model::lm_head_tensor(config);
  placement::add_tensor(root, {.name = "lm_head.weight",
                               .bytes = model::bytes_of(head, dtype),
                               .tied_to = config.tie_word_embeddings ? head.name : std::string()});
  placement::sum_bytes(root);
  return root;
}

std::int64_t count_micro_batches(const Prompts& prompts, std::int64_t tokens_per_batch) {
  std::int64_t count = 0, tokens = tokens_per_batch;
  for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
    const std::int64_t length = prompts.length(prompt);
    if (count == 0 || tokens + length > tokens_per_batch) {
      ++count;
      tokens = 0;
    }
    tokens += length;
  }
  return count;
}

std::int64_t largest_micro_batch(const Prompts& prompts, std::int64_t tokens_per_batch) {
  std::int64_t longest = 0;
  for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
    longest = std::max(longest, prompts.length(prompt));
  }
  return std::max(longest, std::min(tokens_per_batch, prompts.num_tokens()));
}

placement::Work work_of(const model::ModelConfig& config, const weights::Checkpoint& checkpoint, const Plan& plan,
                        const Prompts& prompts, const Rates& rates, bool keeps_fp8) {
  const auto tokens = static_cast<double>(prompts.num_tokens());
  const double hidden_bytes =
      tokens * static_cast<double>(config.hidden_size) * static_cast<double>(size_of(plan.dtype));
  Modules modules(checkpoint, plan.dtype, rates, keeps_fp8);
  if (config.experts) {
    modules.experts_share =
        static_cast<double>(config.experts->num_experts_per_tok) / static_cast<double>(config.experts->num_experts);
  }
  if (plan.runs_embedding) {
    const model::ExpectedTensor embedding = model::embedding_tensor(config);
    modules.add("model.embed_tokens", false, {&embedding, 1}, 0, 0, 2 * hidden_bytes);
  }
  std::unordered_map<std::int64_t, double> pairs;  // by window
  for (const std::int64_t layer : plan.layers) {
    const std::int64_t window = config.sliding_window[static_cast<std::size_t>(layer)];
    if (!pairs.contains(window)) pairs[window] = seen_pairs(prompts, window);
    const std::vector<model::ExpectedTensor> tensors = model::layer_tensors(config, layer);
    modules.add(model::layer_module(layer), true, tensors, tokens,
                2 * static_cast<double>(config.query_size() + config.attention_size()) * pairs[window], 0);
  }
  if (plan.runs_norm) {
    const model::ExpectedTensor norm = model::norm_tensor(config);
    modules.add("model.norm", false, {&norm, 1}, 0, 0, 2 * hidden_bytes);
  }
  if (plan.runs_lm_head) {
    const model::ExpectedTensor head = model::lm_head_tensor(config);
    const double rows = plan.keeps_mean ? tokens : static_cast<double>(plan.rows.num_rows());
    modules.add("lm_head", false, {&head, 1}, rows, 0, 0);
  }

  placement::Work work;
  work.modules = modules.take();
  work.one_at_a_time = plan.test_type == TestType::single;
  std::unordered_map<std::string, placement::Module*> by_name;
  for (placement::Module& module : work.modules) by_name.emplace(module.name, &module);
  for (const store::Layout::Point& point : plan.points) {
    const auto owner = by_name.find(module_of(point.point.name, config));
    if (!point.stored || owner == by_name.end()) continue;
    const auto bytes = static_cast<double>(row_bytes(point.point)) * static_cast<double>(plan.rows.num_rows());
    owner->second->capture_seconds += bytes / rates.host_bytes;
  }
  return work;
}

std::int64_t batch_factor(const model::ModelConfig& config) {
  constexpr std::int64_t kGoodShare = 4;  // of 8,192 tokens an expert gets 2,048 then, which multiply at full rate
  if (!config.experts) return 1;
  return std::max<std::int64_t>(1, config.experts->num_experts / (kGoodShare * config.experts->num_experts_per_tok));
}

Reserve reserve_of(const model::ModelConfig& config, const Plan& plan, const Prompts& prompts,
                   std::int64_t tokens_per_batch, bool is_gpu, std::size_t num_devices) {
  const std::int64_t tokens = largest_micro_batch(prompts, tokens_per_batch);
  Reserve reserve;
  reserve.context_bytes = is_gpu ? kContextBytes : 0;
  reserve.workspace_bytes = is_gpu ? kWorkspaceBytes : 0;
  if (plan.runs_lm_head) {
    const std::uint64_t logits = static_cast<std::uint64_t>(config.vocab_size) * size_of(plan.dtype);
    reserve.workspace_bytes +=
        plan.keeps_mean ? logits * static_cast<std::uint64_t>(tokens) : std::max(kLogitsBytes, logits);
  }
  if (is_gpu && config.fp8) reserve.workspace_bytes += std::max(kFp8Bytes, largest_dense_bytes(config, plan.dtype));
  if (is_gpu && config.latent && config.value_head_dim() != config.head_dim) {  // device/cuda/attention.cpp pads two
    reserve.workspace_bytes +=
        2 * static_cast<std::uint64_t>(tokens) * static_cast<std::uint64_t>(config.num_attention_heads) *
        static_cast<std::uint64_t>(std::max(config.value_head_dim(), config.head_dim)) * size_of(plan.dtype);
  }
  reserve.activations_bytes = model::Activations::bytes(config, plan.dtype, tokens);
  std::uint64_t widest = 0;
  for (const store::Layout::Point& point : plan.points) {
    if (point.stored && !point.point.name.starts_with("lm_head")) widest = std::max(widest, row_bytes(point.point));
  }
  const std::uint64_t hidden = static_cast<std::uint64_t>(config.hidden_size) * size_of(plan.dtype);
  reserve.rings_bytes = static_cast<std::uint64_t>(tokens) * (kRingSlots * widest + (num_devices > 1 ? 2 * hidden : 0));
  return reserve;
}

WaveStates wave_states(const model::ModelConfig& config, Dtype dtype, std::int64_t largest_batch,
                       std::int64_t num_micro_batches, std::int64_t num_waves) {
  const std::uint64_t row = static_cast<std::uint64_t>(largest_batch) * size_of(dtype);
  const std::int64_t waves = std::max<std::int64_t>(num_waves, 1);
  return {.rotation_bytes = row * static_cast<std::uint64_t>(config.rotary_dim),
          .hidden_bytes = row * static_cast<std::uint64_t>(config.hidden_size),
          .num_micro_batches = (num_micro_batches + waves - 1) / waves};
}

}  // namespace layerprobe::plan
