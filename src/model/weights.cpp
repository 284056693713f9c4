#include "model/weights.h"

#include "base/error.h"
#include "base/text.h"
#include "model/tensors.h"

namespace layerprobe::model {

WeightLoader::WeightLoader(const ModelConfig& config, const weights::Checkpoint& checkpoint, Dtype dtype,
                           device::Ops& ops, std::function<void(std::uint64_t bytes)> read)
    : config_(config), checkpoint_(checkpoint), dtype_(dtype), ops_(ops), read_(std::move(read)) {}

std::vector<std::byte> WeightLoader::read(const std::string& name) {
  const weights::TensorInfo* info = checkpoint_.find(name);
  if (info == nullptr) {
    throw Error({.kind = ErrorKind::input,
                 .where = checkpoint_.path().string(),
                 .what = text("has no tensor ", name),
                 .fix = name == "lm_head.weight" ? "this is a base model without a head; use --test-type extract-all"
                                                 : "fetch the checkpoint again"});
  }
  std::vector<std::byte> values(static_cast<std::size_t>(info->num_elements()) * size_of(dtype_));
  checkpoint_.read(*info, dtype_, values.data());
  read_(info->bytes);
  return values;
}

OwnedTensor WeightLoader::tensor(const std::string& name) {
  const std::vector<std::byte> values = read(name);
  const std::vector<std::int64_t>& shape = checkpoint_.find(name)->shape;
  OwnedTensor out;
  out.buffer = ops_.allocate(values.size());
  out.tensor = device::Tensor::contiguous(out.buffer.data(), dtype_, shape.size() == 1 ? 1 : shape[0], shape.back());
  ops_.copy_from_host(out.tensor, values.data());
  return out;
}

std::unique_ptr<device::MatMulWeight> WeightLoader::stacked(std::initializer_list<std::string> modules, bool bias) {
  std::vector<std::vector<std::byte>> values;
  device::Ops::MatMulWeightParts parts;
  for (const std::string& module : modules) {
    values.push_back(read(module + ".weight"));
    const std::vector<std::int64_t>& shape = checkpoint_.find(module + ".weight")->shape;
    parts.weights.push_back(device::Tensor::contiguous(values.back().data(), dtype_, shape[0], shape[1]));
    if (!bias) continue;
    values.push_back(read(module + ".bias"));
    parts.biases.push_back(device::Tensor::contiguous(values.back().data(), dtype_, 1, shape[0]));
  }
  return ops_.matmul_weight(parts);
}

LayerWeights WeightLoader::layer(std::int64_t layer) {
  const std::string prefix = text("model.layers.", layer, ".");
  const std::string attn = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  LayerWeights out;
  out.input_layernorm = tensor(prefix + "input_layernorm.weight");
  out.qkv_proj = stacked({attn + "q_proj", attn + "k_proj", attn + "v_proj"}, config_.qkv_bias);
  if (config_.qk_norm) {
    out.q_norm = tensor(attn + "q_norm.weight");
    out.k_norm = tensor(attn + "k_norm.weight");
  }
  out.o_proj = stacked({attn + "o_proj"}, config_.o_bias);
  out.post_attention_layernorm = tensor(prefix + "post_attention_layernorm.weight");
  out.gate_up_proj = stacked({mlp + "gate_proj", mlp + "up_proj"}, config_.mlp_bias);
  out.down_proj = stacked({mlp + "down_proj"}, config_.mlp_bias);
  return out;
}

OwnedTensor WeightLoader::embedding() { return tensor(embedding_tensor(config_).name); }

OwnedTensor WeightLoader::norm() { return tensor(norm_tensor(config_).name); }

std::unique_ptr<device::MatMulWeight> WeightLoader::lm_head() {
  const std::string name = lm_head_tensor(config_).name;
  const std::string module = name.substr(0, name.rfind('.'));
  return stacked({module}, false);
}

std::vector<float> WeightLoader::rope_divisors() {
  const weights::TensorInfo* info = checkpoint_.find("rope_freqs.weight");
  if (info == nullptr) return {};
  if (info->num_elements() != config_.head_dim / 2) {
    throw Error(
        {.kind = ErrorKind::input,
         .where = text(checkpoint_.path().string(), ": rope_freqs.weight"),
         .what = text("has ", info->num_elements(), " elements; expected head_dim / 2 = ", config_.head_dim / 2),
         .fix = "fetch the checkpoint again"});
  }
  std::vector<float> out(static_cast<std::size_t>(info->num_elements()));
  checkpoint_.read(*info, Dtype::f32, out.data());
  return out;
}

std::uint64_t WeightLoader::stored_bytes(const std::string& name) const {
  const weights::TensorInfo* info = checkpoint_.find(name);
  return info == nullptr ? 0 : info->bytes;
}

std::uint64_t WeightLoader::layer_bytes(std::int64_t layer) const {
  std::uint64_t bytes = 0;
  for (const ExpectedTensor& tensor : layer_tensors(config_, layer)) bytes += stored_bytes(tensor.name);
  return bytes;
}
std::uint64_t WeightLoader::embedding_bytes() const { return stored_bytes(embedding_tensor(config_).name); }
std::uint64_t WeightLoader::norm_bytes() const { return stored_bytes(norm_tensor(config_).name); }
std::uint64_t WeightLoader::lm_head_bytes() const { return stored_bytes(lm_head_tensor(config_).name); }

}  // namespace layerprobe::model
