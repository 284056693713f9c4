#include "model/weights.h"

#include <algorithm>
#include <numeric>
#include <span>
#include <vector>

#include "base/error.h"
#include "base/float16.h"
#include "base/text.h"
#include "model/tensors.h"

namespace layerprobe::model {
namespace {

/// The same values rounded to `narrow`, f16 or bf16, before they become another dtype; as they are where that changes
/// nothing.
device::StoredValues rounded(device::StoredValues values, Dtype narrow) {
  if (size_of(narrow) != 2 || is_same(values.storage, narrow)) return values;
  values.only_read_values = true;
  values.read_values = [read = std::move(values.read_values), narrow, count = values.rows * values.columns](Dtype dtype,
                                                                                                            void* out) {
    if (dtype != Dtype::f32) return read(dtype, out);
    std::vector<std::uint16_t> bits(static_cast<std::size_t>(count));
    read(narrow, bits.data());
    auto* wide = static_cast<float*>(out);
    for (const std::uint16_t one : bits) *wide++ = narrow == Dtype::bf16 ? f32_of_bf16(one) : f32_of_f16(one);
  };
  return values;
}

/// out[r, c] = x[c, r], of elements of 2, 4 or 8 bytes; `out` is [rows, columns].
void transpose(std::span<const std::byte> x, std::byte* out, std::int64_t rows, std::int64_t columns,
               std::size_t element_bytes) {
  const auto move = [&]<typename Element>(Element) {
    const auto* from = reinterpret_cast<const Element*>(x.data());
    auto* to = reinterpret_cast<Element*>(out);
#pragma omp parallel for schedule(static) if (rows * columns > 65536)
    for (std::int64_t row = 0; row < rows; ++row) {
      for (std::int64_t column = 0; column < columns; ++column) to[row * columns + column] = from[column * rows + row];
    }
  };
  if (element_bytes == 2) return move(std::uint16_t{});
  if (element_bytes == 4) return move(std::uint32_t{});
  move(std::uint64_t{});
}

}  // namespace

WeightLoader::WeightLoader(const ModelConfig& config, const weights::Checkpoint& checkpoint, Dtype dtype,
                           device::Ops& ops, std::function<void(std::uint64_t bytes)> read)
    : config_(config), checkpoint_(checkpoint), dtype_(dtype), ops_(ops), read_(std::move(read)) {}

device::StoredValues WeightLoader::stored(const std::string& name) const {
  const weights::TensorInfo* info = checkpoint_.find(name);
  if (info == nullptr) {
    throw Error({.kind = ErrorKind::input,
                 .where = checkpoint_.path().string(),
                 .what = text("has no tensor ", name),
                 .fix = name == "lm_head.weight" ? "this is a base model without a head; use --test-type extract-all"
                                                 : "fetch the checkpoint again"});
  }
  if (info->storage == Storage::f8_e4m3) return scaled(*info);
  return {.rows = info->shape.size() == 1 ? 1 : info->shape[0],
          .columns = info->shape.back(),
          .storage = info->storage,
          .file = &checkpoint_.file_of(*info),
          .offset = info->offset,
          .interleaved_heads = info->interleaved_heads,
          .read_values = [this, info](Dtype dtype, void* out) {
            checkpoint_.read(*info, dtype, out);
            read_(info->bytes);
          }};
}

device::StoredValues WeightLoader::scaled(const weights::TensorInfo& info) const {
  const weights::TensorInfo* scales = checkpoint_.find(scales_name(info.name));
  expect(config_.fp8.has_value() && scales != nullptr, "FP8 tensors were checked");
  const device::BlockScales blocks{.rows = scales->shape[0],
                                   .columns = scales->shape[1],
                                   .block_rows = config_.fp8->rows,
                                   .block_columns = config_.fp8->columns,
                                   .storage = scales->storage,
                                   .file = &checkpoint_.bytes_of(*scales),
                                   .offset = scales->offset};
  return {.rows = info.shape[0],
          .columns = info.shape[1],
          .storage = info.storage,
          .file = &checkpoint_.bytes_of(info),
          .offset = info.offset,
          .scales = blocks,
          .read_values = [this, &info, scales](Dtype dtype, void* out) {
            checkpoint_.read_scaled(info, *scales, config_.fp8->rows, config_.fp8->columns, dtype, out);
            read_(info.bytes + scales->bytes);
          }};
}

OwnedTensor WeightLoader::tensor(const std::string& name) {
  const device::StoredValues values = stored(name);
  OwnedTensor out;
  out.buffer = ops_.allocate(static_cast<std::size_t>(values.rows * values.columns) * size_of(dtype_));
  out.tensor = device::Tensor::contiguous(out.buffer.data(), dtype_, values.rows, values.columns);
  ops_.load({.out = out.tensor, .values = values});
  return out;
}

std::unique_ptr<device::MatMulWeight> WeightLoader::stacked(std::initializer_list<Linear> linears) {
  device::Ops::MatMulWeightParts parts{.dtype = dtype_, .weights = {}};
  const bool has_bias = std::ranges::any_of(linears, &Linear::has_bias);
  for (const Linear& linear : linears) {
    parts.weights.push_back(stored(linear.module + ".weight"));
    if (has_bias) {
      parts.biases.push_back(linear.has_bias ? std::optional(stored(linear.module + ".bias")) : std::nullopt);
    }
  }
  return ops_.matmul_weight(parts);
}

LayerWeights WeightLoader::layer(std::int64_t layer, bool with_experts) {
  const std::string prefix = text("model.layers.", layer, ".");
  const std::string attn = prefix + "self_attn.";
  const std::string mlp = prefix + "mlp.";
  LayerWeights out;
  out.input_layernorm = tensor(prefix + "input_layernorm.weight");
  if (config_.latent) {
    load_latent_attention(attn, out);
  } else {
    out.qkv_proj = stacked({{attn + "q_proj", config_.qkv_bias},
                            {attn + "k_proj", config_.qkv_bias},
                            {attn + "v_proj", config_.qkv_bias}});
  }
  if (config_.qk_norm != QkNorm::none) {
    out.q_norm = tensor(attn + "q_norm.weight");
    out.k_norm = tensor(attn + "k_norm.weight");
  }
  out.o_proj = stacked({{attn + "o_proj", config_.o_bias}});
  out.post_attention_layernorm = tensor(prefix + "post_attention_layernorm.weight");
  if (config_.has_experts(layer)) {
    load_router(layer, out);
    if (with_experts) {
      std::vector<std::int64_t> all(static_cast<std::size_t>(config_.experts->num_experts));
      std::iota(all.begin(), all.end(), 0);
      out.experts = experts(layer, all);
    }
    if (config_.experts->shared_intermediate_size == 0) return out;
    const std::string shared = mlp + "shared_experts.";
    out.gate_up_proj = stacked({{shared + "gate_proj", false}, {shared + "up_proj", false}});
    out.down_proj = stacked({{shared + "down_proj", false}});
    return out;
  }
  out.gate_up_proj = stacked({{mlp + "gate_proj", config_.mlp_bias}, {mlp + "up_proj", config_.mlp_bias}});
  out.down_proj = stacked({{mlp + "down_proj", config_.mlp_bias}});
  return out;
}

void WeightLoader::load_latent_attention(const std::string& attn, LayerWeights& out) {
  const Linear kv_a{attn + "kv_a_proj_with_mqa", config_.qkv_bias};
  if (config_.latent->q_lora_rank > 0) {
    out.qkv_proj = stacked({{attn + "q_a_proj", config_.qkv_bias}, kv_a});
    out.q_a_layernorm = tensor(attn + "q_a_layernorm.weight");
    out.q_b_proj = stacked({{attn + "q_b_proj", false}});
  } else {
    out.qkv_proj = stacked({{attn + "q_proj", false}, kv_a});
  }
  out.kv_a_layernorm = tensor(attn + "kv_a_layernorm.weight");
  out.kv_b_proj = stacked({{attn + "kv_b_proj", false}});
}

void WeightLoader::load_router(std::int64_t layer, LayerWeights& out) {
  device::StoredValues router = stored(router_name(config_, layer));
  if (config_.experts->router.rounds_gate) router = rounded(std::move(router), dtype_);
  out.router = ops_.matmul_weight({.dtype = config_.experts->router.dtype(dtype_), .weights = {router}});
  if (config_.experts->router.has_selection_bias) {
    out.selection_bias = selection_bias(selection_bias_name(config_, layer));
  }
}

Experts WeightLoader::experts(std::int64_t layer, std::span<const std::int64_t> chosen) {
  device::Ops::ExpertWeightsParts gate_up{.dtype = dtype_, .experts = {}}, down = gate_up;
  for (const std::int64_t expert : chosen) {
    if (config_.experts->names.fused) {
      const FusedExpertTensors fused = fused_experts(config_, layer);
      gate_up.experts.push_back({of_expert(fused.gate_up_proj, expert)});
      down.experts.push_back({of_expert(fused.down_proj, expert)});
      continue;
    }
    const ExpertTensorNames names = expert_names(config_, layer, expert);
    gate_up.experts.push_back({stored(names.gate_proj), stored(names.up_proj)});
    down.experts.push_back({stored(names.down_proj)});
  }
  Experts out;
  out.gate_up_proj = ops_.expert_weights(gate_up);
  out.down_proj = ops_.expert_weights(down);
  return out;
}

device::StoredValues WeightLoader::of_expert(const ExpectedTensor& all, std::int64_t expert) const {
  const weights::TensorInfo* info = checkpoint_.find(all.name);
  expect(info != nullptr, "the tensors were checked");
  weights::TensorInfo slice = *info;
  slice.shape.erase(slice.shape.begin());
  slice.bytes = info->bytes / static_cast<std::uint64_t>(info->shape[0]);
  slice.offset += static_cast<std::uint64_t>(expert) * slice.bytes;
  const std::int64_t rows = all.shape[1], columns = all.shape[2];
  const bool is_transposed = info->shape != all.shape;
  return {.rows = rows,
          .columns = columns,
          .storage = info->storage,
          .file = &checkpoint_.file_of(*info),
          .offset = slice.offset,
          .only_read_values = is_transposed,
          .read_values = [this, slice, rows, columns, is_transposed](Dtype dtype, void* out) {
            if (!is_transposed) {
              checkpoint_.read(slice, dtype, out);
            } else {
              std::vector<std::byte> stored(static_cast<std::size_t>(rows * columns) * size_of(dtype));
              checkpoint_.read(slice, dtype, stored.data());
              transpose(stored, static_cast<std::byte*>(out), rows, columns, size_of(dtype));
            }
            read_(slice.bytes);
          }};
}

/// Rounded to the run's dtype, as transformers' from_pretrained rounds it (but where its class keeps it in f32), and
/// added in f32.
OwnedTensor WeightLoader::selection_bias(const std::string& name) {
  device::StoredValues values = stored(name);
  const Dtype dtype = dtype_ == Dtype::f64 ? Dtype::f64 : Dtype::f32;
  if (!config_.experts->router.keeps_bias) values = rounded(std::move(values), dtype_);
  std::vector<std::byte> bytes(static_cast<std::size_t>(values.columns) * size_of(dtype));
  values.read_values(dtype, bytes.data());
  OwnedTensor out;
  out.buffer = ops_.allocate(bytes.size());
  out.tensor = device::Tensor::contiguous(out.buffer.data(), dtype, 1, values.columns);
  ops_.copy_from_host(out.tensor, bytes.data());
  return out;
}

OwnedTensor WeightLoader::embedding() { return tensor(embedding_tensor(config_).name); }

OwnedTensor WeightLoader::norm() { return tensor(norm_tensor(config_).name); }

std::unique_ptr<device::MatMulWeight> WeightLoader::lm_head() {
  const std::string name = lm_head_tensor(config_).name;
  const std::string module = name.substr(0, name.rfind('.'));
  return stacked({{module, false}});
}

std::vector<float> WeightLoader::rope_divisors() {
  const weights::TensorInfo* info = checkpoint_.find("rope_freqs.weight");
  if (info == nullptr) return {};
  if (info->num_elements() != config_.rotary_dim / 2) {
    throw Error(
        {.kind = ErrorKind::input,
         .where = text(checkpoint_.path().string(), ": rope_freqs.weight"),
         .what = text("has ", info->num_elements(), " elements; expected rotary_dim / 2 = ", config_.rotary_dim / 2),
         .fix = "fetch the checkpoint again"});
  }
  std::vector<float> out(static_cast<std::size_t>(info->num_elements()));
  checkpoint_.read(*info, Dtype::f32, out.data());
  return out;
}

std::uint64_t WeightLoader::stored_bytes(const std::string& name) const {
  const weights::TensorInfo* info = checkpoint_.find(name);
  if (info == nullptr) return 0;
  const weights::TensorInfo* scales = info->storage == Storage::f8_e4m3 ? checkpoint_.find(scales_name(name)) : nullptr;
  return info->bytes + (scales == nullptr ? 0 : scales->bytes);
}

std::uint64_t WeightLoader::layer_bytes(std::int64_t layer, bool with_experts) const {
  std::uint64_t bytes = 0;
  for (const ExpectedTensor& tensor : layer_tensors(config_, layer)) bytes += stored_bytes(tensor.name);
  if (with_experts || !config_.has_experts(layer)) return bytes;
  for (const ExpectedTensor& tensor : expert_tensors(config_, layer)) bytes -= stored_bytes(tensor.name);
  return bytes;
}
std::uint64_t WeightLoader::embedding_bytes() const { return stored_bytes(embedding_tensor(config_).name); }
std::uint64_t WeightLoader::norm_bytes() const { return stored_bytes(norm_tensor(config_).name); }
std::uint64_t WeightLoader::lm_head_bytes() const { return stored_bytes(lm_head_tensor(config_).name); }

}  // namespace layerprobe::model
