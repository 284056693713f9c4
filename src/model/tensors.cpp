#include "model/tensors.h"

#include <algorithm>
#include <iterator>
#include <unordered_set>

#include "base/error.h"
#include "base/probe_point.h"
#include "base/text.h"

namespace layerprobe::model {
namespace {

constexpr std::size_t kNamesInMessage = 4;

std::string experts_module(const ModelConfig& config, std::int64_t layer) {
  std::string name = layer_module(layer) + ".";  // not text(): 47,616 names are MiniMax-M2's
  name += config.experts->names.module;
  return name;
}

void add_router(const ModelConfig& config, std::int64_t layer, std::vector<ExpectedTensor>& out) {
  const ExpertsConfig& experts = *config.experts;
  out.push_back({router_name(config, layer), {experts.num_experts, config.hidden_size}});
  if (experts.router.has_selection_bias) out.push_back({selection_bias_name(config, layer), {experts.num_experts}});
}

/// Is the tensor of a layer behind the last that predicts further tokens (multi-token prediction)?
bool is_of_mtp(const ModelConfig& config, const weights::Checkpoint& checkpoint, const std::string& tensor) {
  if (config.num_mtp_layers == 0) return false;
  const std::int64_t layer = layer_of(tensor);
  return layer >= config.num_hidden_layers && layer < config.num_hidden_layers + config.num_mtp_layers &&
         checkpoint.find(text("model.layers.", layer, ".eh_proj.weight")) != nullptr;
}

bool has_shape(const ExpectedTensor& tensor, std::vector<std::int64_t> shape) {
  if (shape == tensor.shape) return true;
  if (!tensor.may_be_transposed || shape.size() < 2) return false;
  std::swap(shape[shape.size() - 2], shape.back());
  return shape == tensor.shape;
}

/// Throws Error(input) unless `weight` is FP8 as we know it and its factors are there.
void check_scales(const ModelConfig& config, const weights::Checkpoint& checkpoint, const weights::TensorInfo& weight,
                  const std::string& scales_name) {
  const auto refuse = [&](std::string what, std::string fix) {
    const std::string file = checkpoint.files()[static_cast<std::size_t>(weight.file)].string();
    return Error({.kind = ErrorKind::input,
                  .where = text(file, ": ", weight.name),
                  .what = std::move(what),
                  .fix = std::move(fix)});
  };
  const char* const other = "use the model's bfloat16 or float16 checkpoint";
  if (weight.storage != Storage::f8_e4m3 || weight.shape.size() != 2) {
    throw refuse(text("is ", name_of(weight.storage), " of shape ", shape_text(weight.shape),
                      "; of FP8, matrices of F8_E4M3 are supported"),
                 other);
  }
  if (!config.fp8) throw refuse("is F8_E4M3 where config.json has no quantization_config", other);
  const weights::TensorInfo* scales = checkpoint.find(scales_name);
  if (scales == nullptr) {
    throw refuse(text("is F8_E4M3 and has no ", scales_name, " beside it"),
                 "the checkpoint is not whole; fetch it again");
  }
  const auto blocks = [](std::int64_t count, std::int64_t size) { return (count + size - 1) / size; };
  const std::vector<std::int64_t> block = {config.fp8->rows, config.fp8->columns};
  const std::vector<std::int64_t> wanted = {blocks(weight.shape[0], config.fp8->rows),
                                            blocks(weight.shape[1], config.fp8->columns)};
  if (scales->shape != wanted) {
    throw refuse(text(scales_name, " is ", shape_text(scales->shape), " where blocks of ", shape_text(block), " need ",
                      shape_text(wanted)),
                 "the weights and config.json are of different models; fetch both from one revision");
  }
  if (!is_convertible(scales->storage) && scales->storage != Storage::f8_e8m0) {
    throw refuse(text(scales_name, " is ", name_of(scales->storage), "; expected F32, BF16, F16 or F8_E8M0"), other);
  }
}

}  // namespace

std::string router_name(const ModelConfig& config, std::int64_t layer) {
  return experts_module(config, layer) + ".gate.weight";
}

std::string selection_bias_name(const ModelConfig& config, std::int64_t layer) {
  return (experts_module(config, layer) += ".") += config.experts->names.selection_bias;
}

ExpertTensorNames expert_names(const ModelConfig& config, std::int64_t layer, std::int64_t expert) {
  const std::string prefix = experts_module(config, layer) + ".experts." + std::to_string(expert) + ".";
  const auto name = [&](std::string_view matrix) { return (prefix + std::string(matrix)) += ".weight"; };
  const ExpertNames& names = config.experts->names;
  return {name(names.gate_proj), name(names.up_proj), name(names.down_proj)};
}

FusedExpertTensors fused_experts(const ModelConfig& config, std::int64_t layer) {
  const ExpertsConfig& experts = *config.experts;
  const std::string prefix = experts_module(config, layer) + ".experts.";
  const std::int64_t width = experts.moe_intermediate_size, hidden = config.hidden_size;
  return {.gate_up_proj = {prefix + "gate_up_proj", {experts.num_experts, 2 * width, hidden}, true},
          .down_proj = {prefix + "down_proj", {experts.num_experts, hidden, width}, true}};
}

std::string layer_module(std::int64_t layer) { return "model.layers." + std::to_string(layer); }

std::uint64_t bytes_of(const ExpectedTensor& tensor, Dtype dtype) {
  std::uint64_t bytes = size_of(dtype);
  for (const std::int64_t size : tensor.shape) bytes *= static_cast<std::uint64_t>(size);
  return bytes;
}

std::vector<ExpectedTensor> expert_tensors(const ModelConfig& config, std::int64_t layer) {
  const ExpertsConfig& experts = *config.experts;
  if (experts.names.fused) {
    FusedExpertTensors fused = fused_experts(config, layer);
    return {std::move(fused.gate_up_proj), std::move(fused.down_proj)};
  }
  std::vector<ExpectedTensor> out;
  out.reserve(static_cast<std::size_t>(3 * experts.num_experts));
  for (std::int64_t expert = 0; expert < experts.num_experts; ++expert) {
    const ExpertTensorNames names = expert_names(config, layer, expert);
    out.push_back({names.gate_proj, {experts.moe_intermediate_size, config.hidden_size}});
    out.push_back({names.up_proj, {experts.moe_intermediate_size, config.hidden_size}});
    out.push_back({names.down_proj, {config.hidden_size, experts.moe_intermediate_size}});
  }
  return out;
}

std::vector<ExpectedTensor> layer_tensors(const ModelConfig& config, std::int64_t layer) {
  const std::string prefix = layer_module(layer) + ".";
  const std::int64_t hidden = config.hidden_size;
  const std::int64_t intermediate = config.intermediate_size;
  std::vector<ExpectedTensor> out;
  const auto linear = [&](const char* name, std::int64_t out_features, std::int64_t in_features, bool bias) {
    out.push_back({prefix + name + ".weight", {out_features, in_features}});
    if (bias) out.push_back({prefix + name + ".bias", {out_features}});
  };
  out.push_back({prefix + "input_layernorm.weight", {hidden}});
  if (config.latent) {
    const LatentAttention& latent = *config.latent;
    const std::int64_t heads = config.num_attention_heads;
    if (latent.q_lora_rank > 0) {
      linear("self_attn.q_a_proj", latent.q_lora_rank, hidden, config.qkv_bias);
      out.push_back({prefix + "self_attn.q_a_layernorm.weight", {latent.q_lora_rank}});
      linear("self_attn.q_b_proj", config.query_size(), latent.q_lora_rank, false);
    } else {
      linear("self_attn.q_proj", config.query_size(), hidden, false);
    }
    linear("self_attn.kv_a_proj_with_mqa", latent.kv_lora_rank + latent.qk_rope_head_dim, hidden, config.qkv_bias);
    out.push_back({prefix + "self_attn.kv_a_layernorm.weight", {latent.kv_lora_rank}});
    linear("self_attn.kv_b_proj", heads * (latent.qk_nope_head_dim + latent.v_head_dim), latent.kv_lora_rank, false);
  } else {
    linear("self_attn.q_proj", config.query_size(), hidden, config.qkv_bias);
    linear("self_attn.k_proj", config.key_value_size(), hidden, config.qkv_bias);
    linear("self_attn.v_proj", config.key_value_size(), hidden, config.qkv_bias);
  }
  if (config.qk_norm != QkNorm::none) {
    out.push_back({prefix + "self_attn.q_norm.weight", {config.query_norm_size()}});
    out.push_back({prefix + "self_attn.k_norm.weight", {config.key_norm_size()}});
  }
  linear("self_attn.o_proj", hidden, config.attention_size(), config.o_bias);
  out.push_back({prefix + "post_attention_layernorm.weight", {hidden}});
  if (config.has_experts(layer)) {
    add_router(config, layer, out);
    std::ranges::move(expert_tensors(config, layer), std::back_inserter(out));
    const std::int64_t shared = config.experts->shared_intermediate_size;
    if (shared == 0) return out;
    linear("mlp.shared_experts.gate_proj", shared, hidden, false);
    linear("mlp.shared_experts.up_proj", shared, hidden, false);
    linear("mlp.shared_experts.down_proj", hidden, shared, false);
    return out;
  }
  linear("mlp.gate_proj", intermediate, hidden, config.mlp_bias);
  linear("mlp.up_proj", intermediate, hidden, config.mlp_bias);
  linear("mlp.down_proj", hidden, intermediate, config.mlp_bias);
  return out;
}

ExpectedTensor embedding_tensor(const ModelConfig& config) {
  return {"model.embed_tokens.weight", {config.vocab_size, config.hidden_size}};
}

ExpectedTensor norm_tensor(const ModelConfig& config) { return {"model.norm.weight", {config.hidden_size}}; }

ExpectedTensor lm_head_tensor(const ModelConfig& config) {
  if (config.tie_word_embeddings) return embedding_tensor(config);
  return {"lm_head.weight", {config.vocab_size, config.hidden_size}};
}

std::uint64_t loaded_bytes(const ExpectedTensor& tensor, const weights::Checkpoint& checkpoint, Dtype dtype,
                           bool keeps_fp8) {
  const weights::TensorInfo* info = keeps_fp8 ? checkpoint.find(tensor.name) : nullptr;
  if (info == nullptr || info->storage != Storage::f8_e4m3) return bytes_of(tensor, dtype);
  const weights::TensorInfo* scales = checkpoint.find(scales_name(tensor.name));
  return info->bytes + (scales == nullptr ? 0 : static_cast<std::uint64_t>(scales->num_elements()) * sizeof(float));
}

void take_stored_dtypes(ModelConfig& config, const weights::Checkpoint& checkpoint) {
  if (!config.fp8 || !config.experts || config.experts->names.module == "mlp") return;
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    if (!config.has_experts(layer)) continue;
    const weights::TensorInfo* router = checkpoint.find(router_name(config, layer));
    config.experts->router.is_f32 = router != nullptr && router->storage == Storage::f32;
    return;
  }
}

std::vector<std::string> check_tensors(const ModelConfig& config, const weights::Checkpoint& checkpoint) {
  std::vector<ExpectedTensor> expected = {embedding_tensor(config), norm_tensor(config)};
  if (!config.tie_word_embeddings) expected.push_back(lm_head_tensor(config));
  for (std::int64_t layer = 0; layer < config.num_hidden_layers; ++layer) {
    std::ranges::move(layer_tensors(config, layer), std::back_inserter(expected));
  }

  const std::string where = checkpoint.path().string();
  std::unordered_set<std::string_view> known;
  known.reserve(expected.size());
  std::vector<std::string> missing, scales;
  for (const ExpectedTensor& tensor : expected) {
    known.insert(tensor.name);
    const weights::TensorInfo* found = checkpoint.find(tensor.name);
    if (found == nullptr) {
      missing.push_back(tensor.name);
    } else if (!has_shape(tensor, found->shape)) {
      throw Error(
          {.kind = ErrorKind::input,
           .where = text(checkpoint.files()[static_cast<std::size_t>(found->file)].string(), ": ", tensor.name),
           .what = text("shape is ", shape_text(found->shape), " where config.json says ", shape_text(tensor.shape)),
           .fix = "the weights and config.json are of different models; fetch both from one revision"});
    } else if (!is_convertible(found->storage)) {
      scales.push_back(scales_name(tensor.name));
      check_scales(config, checkpoint, *found, scales.back());
    }
  }
  known.insert(scales.begin(), scales.end());
  // A base-model export has no head and is all that most runs need: `full` asks for it by itself.
  std::erase(missing, "lm_head.weight");
  if (!missing.empty()) {
    throw Error(
        {.kind = ErrorKind::input,
         .where = where,
         .what = text("has no tensor ", listed(missing, kNamesInMessage)),
         .fix = "the checkpoint is not whole, or config.json is of another model; fetch both from one revision"});
  }

  std::vector<std::string> unused, unknown;
  for (const weights::TensorInfo& tensor : checkpoint.tensors()) {
    if (known.contains(tensor.name) || tensor.name == "rope_freqs.weight") continue;
    const bool inert = tensor.name.ends_with(".rotary_emb.inv_freq") || tensor.name.starts_with("model.visual.") ||
                       is_of_mtp(config, checkpoint, tensor.name);
    (tensor.name.starts_with("model.") && !inert ? unknown : unused).push_back(tensor.name);
  }
  if (!unknown.empty()) {
    throw Error({.kind = ErrorKind::input,
                 .where = where,
                 .what = text("has tensors that ", config.model_type,
                              " with this config.json has no use for: ", listed(unknown, kNamesInMessage)),
                 .fix = "they would change what the model computes; check model_type, num_hidden_layers and the bias "
                        "keys of config.json"});
  }
  return unused;
}

}  // namespace layerprobe::model
