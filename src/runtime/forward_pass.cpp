#include "runtime/forward_pass.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "base/float16.h"
#include "base/text.h"
#include "model/points.h"
#include "model/tensors.h"

namespace layerprobe::runtime {
namespace {

constexpr std::size_t kLogitsBytes = std::size_t{16} << 20;  // at once: the rest of the kept rows comes after

double logit_at(const std::byte* row, Dtype dtype, std::size_t id) {
  switch (dtype) {
    case Dtype::f64:
      return reinterpret_cast<const double*>(row)[id];
    case Dtype::f32:
      return reinterpret_cast<const float*>(row)[id];
    case Dtype::f16:
      return f32_of_f16(reinterpret_cast<const std::uint16_t*>(row)[id]);
    default:
      return f32_of_bf16(reinterpret_cast<const std::uint16_t*>(row)[id]);
  }
}

/// Ranks one row of logits. A NaN ranks below all numbers.
TopK largest(const std::byte* row, Dtype dtype, std::int64_t vocab_size, std::int64_t top_k) {
  std::vector<double> logits(static_cast<std::size_t>(vocab_size));
  for (std::size_t id = 0; id < logits.size(); ++id) {
    const double logit = logit_at(row, dtype, id);
    logits[id] = logit == logit ? logit : -std::numeric_limits<double>::infinity();
  }
  std::vector<std::int32_t> ids(logits.size());
  std::iota(ids.begin(), ids.end(), 0);
  const auto before = [&](std::int32_t a, std::int32_t b) {
    const double left = logits[static_cast<std::size_t>(a)], right = logits[static_cast<std::size_t>(b)];
    return left != right ? left > right : a < b;
  };
  std::partial_sort(ids.begin(), ids.begin() + top_k, ids.end(), before);
  ids.resize(static_cast<std::size_t>(top_k));
  TopK out{.ids = ids, .logits = {}};
  for (const std::int32_t id : ids) {
    out.logits.push_back(static_cast<float>(logit_at(row, dtype, static_cast<std::size_t>(id))));
  }
  return out;
}

}  // namespace

ForwardPass::ForwardPass(const model::ModelConfig& config, const plan::Plan& plan, const Prompts& prompts,
                         device::Ops& ops, capture::Recorder& recorder,
                         std::function<void(std::int64_t row, const TopK&)> rank)
    : config_(config),
      plan_(plan),
      prompts_(prompts),
      ops_(ops),
      recorder_(recorder),
      rank_(std::move(rank)),
      kept_(static_cast<std::size_t>(config.num_hidden_layers)) {
  for (std::size_t i = 0; i < plan.points.size(); ++i) {
    const std::string& name = plan.points[i].point.name;
    const int layer = layer_of(name);
    if (layer < 0) continue;
    const std::string_view suffix = std::string_view(name).substr(model::layer_point_name(config, layer, "").size());
    const std::vector<model::LayerPoint> points = model::layer_points(config, layer, plan.dtype);
    const auto point = std::ranges::find(points, suffix, &model::LayerPoint::suffix);
    expect(point != points.end(), "a planned point is one of the layer's");
    kept_[static_cast<std::size_t>(layer)].emplace_back(point->value, i);
  }
}

ModuleWeights ForwardPass::load(model::WeightLoader& loader, const RunModule& module, bool with_experts) {
  ModuleWeights out;
  switch (module.kind) {
    case RunModule::Kind::embedding:
      out.tensor = loader.embedding();
      break;
    case RunModule::Kind::layer:
      out.layer = loader.layer(module.layer, with_experts);
      break;
    case RunModule::Kind::norm:
      out.tensor = loader.norm();
      break;
    case RunModule::Kind::head:
      out.head = loader.lm_head();
      break;
  }
  return out;
}

std::size_t ForwardPass::weights_bytes(const model::WeightLoader& loader, const RunModule& module) const {
  std::vector<model::ExpectedTensor> tensors;
  switch (module.kind) {
    case RunModule::Kind::embedding:
      tensors = {model::embedding_tensor(config_)};
      break;
    case RunModule::Kind::layer:
      tensors = model::layer_tensors(config_, module.layer);
      break;
    case RunModule::Kind::norm:
      tensors = {model::norm_tensor(config_)};
      break;
    case RunModule::Kind::head:
      tensors = {model::lm_head_tensor(config_)};
      break;
  }
  constexpr std::size_t kAlignment = 512;  // of an allocation
  std::size_t bytes = 0;
  for (const model::ExpectedTensor& tensor : tensors) bytes += loader.loaded_bytes(tensor) + kAlignment;
  return bytes;
}

void ForwardPass::prepare(std::int64_t max_tokens, std::size_t num_batches, std::vector<float> rope_divisors,
                          bool are_sent) {
  max_tokens_ = max_tokens;
  num_rotations_ = num_batches;
  rope_.emplace(config_, plan_.dtype, std::move(rope_divisors));
  activations_.emplace(config_, plan_.dtype, max_tokens, ops_, are_sent);
}

device::Tensor ForwardPass::place(std::size_t index, std::int64_t num_tokens) const {
  const model::LayerValues values = activations_->values(num_tokens);
  return index == 0 ? values.hidden_states : values.next_hidden_states;
}

device::Tensor ForwardPass::first_place(std::int64_t num_tokens) const {
  return activations_->values(num_tokens).coming_hidden_states;
}

/// Batches whose prompts are of the same lengths share one.
const ForwardPass::Rotation& ForwardPass::rotation_of(const capture::Batch& batch) {
  const auto known = std::ranges::find(rotations_, batch.cu_seqlens, &Rotation::cu_seqlens);
  if (known != rotations_.end()) return *known;
  const std::int64_t num_tokens = batch.num_tokens(), half = config_.rotary_dim / 2;
  const auto bytes_of = [&](std::int64_t tokens) {
    return static_cast<std::size_t>(tokens * half) * size_of(plan_.dtype);
  };
  if (rotations_.size() < num_rotations_) {
    next_rotation_ = rotations_.size();
    Rotation& added = rotations_.emplace_back();
    if (next_rotation_ > 0) added.buffer = ops_.allocate(2 * bytes_of(max_tokens_));
  }
  Rotation& rotation = rotations_[next_rotation_];
  rotation.cu_seqlens = batch.cu_seqlens;
  if (next_rotation_ == 0) {
    const model::LayerValues values = activations_->values(num_tokens);
    rotation.cos = values.cos;
    rotation.sin = values.sin;
  } else {
    auto* const memory = static_cast<std::byte*>(rotation.buffer.data());
    rotation.cos = device::Tensor::contiguous(memory, plan_.dtype, num_tokens, half);
    rotation.sin = device::Tensor::contiguous(memory + bytes_of(max_tokens_), plan_.dtype, num_tokens, half);
  }
  next_rotation_ = (next_rotation_ + 1) % num_rotations_;
  cos_.resize(bytes_of(num_tokens));
  sin_.resize(bytes_of(num_tokens));
  rope_->fill(batch.cu_seqlens, cos_.data(), sin_.data());
  ops_.copy_from_host(rotation.cos, cos_.data());
  ops_.copy_from_host(rotation.sin, sin_.data());
  return rotation;
}

void ForwardPass::run(const RunModule& module, const ModuleWeights& weights, const capture::Batch& batch,
                      const device::Tensor& in, const device::Tensor& out) {
  switch (module.kind) {
    case RunModule::Kind::embedding: {
      const auto first_token =
          static_cast<std::size_t>(prompts_.cu_seqlens[static_cast<std::size_t>(batch.first_prompt)]);
      ops_.embedding(
          {.out = out,
           .weight = weights.tensor.tensor,
           .input_ids =
               std::span(prompts_.input_ids).subspan(first_token, static_cast<std::size_t>(batch.num_tokens()))});
      record(config_.decoder + ".embed_tokens", batch, out);
      return;
    }
    case RunModule::Kind::layer:
      try {
        run_layer(module, weights.layer, batch, in, out);
      } catch (const Error& error) {
        throw error.within(text("layer ", module.layer));
      }
      return;
    case RunModule::Kind::norm:
      record(config_.decoder + ".norm:input", batch, in);
      ops_.rms_norm(
          {.out = out, .hidden_states = in, .weight = weights.tensor.tensor, .rms_norm_eps = config_.rms_norm_eps});
      record(config_.decoder + ".norm", batch, out);
      return;
    case RunModule::Kind::head:
      run_head(*weights.head, batch, in);
      return;
  }
}

void ForwardPass::run_layer(const RunModule& module, const model::LayerWeights& weights, const capture::Batch& batch,
                            const device::Tensor& in, const device::Tensor& out) {
  model::LayerValues a = activations_->values(batch.num_tokens());
  const Rotation& rotation = rotation_of(batch);
  a.hidden_states = in;
  a.next_hidden_states = out;
  a.cos = rotation.cos;
  a.sin = rotation.sin;
  model::forward_decoder_layer(config_, weights, module.layer, batch.cu_seqlens, ops_, a,
                               observer(batch, module.layer));
}

void ForwardPass::run_head(const device::MatMulWeight& head_weight, const capture::Batch& batch,
                           const device::Tensor& normed) {
  const auto head = plan_.find("lm_head");
  const auto head_input = plan_.find("lm_head:input");
  std::vector<std::int32_t> selected = recorder_.selected_rows(batch);
  if (plan_.keeps_mean) {  // the head needs all tokens before it can be averaged
    selected.resize(static_cast<std::size_t>(batch.num_tokens()));
    std::iota(selected.begin(), selected.end(), 0);
  }
  if (selected.empty()) {  // a slice that no prompt of the batch reaches
    const auto nothing = device::Tensor::contiguous(nullptr, plan_.dtype, 0, 0);
    for (const auto& point : {head_input, head}) {
      if (point) recorder_.record_selected(*point, batch, 0, nothing, true);
    }
    return;
  }
  const std::size_t row_bytes = static_cast<std::size_t>(config_.vocab_size) * size_of(plan_.dtype);
  const std::size_t num_rows = plan_.keeps_mean ? selected.size() : std::max<std::size_t>(1, kLogitsBytes / row_bytes);
  const auto first_file_row = plan_.rows.cu_rows[static_cast<std::size_t>(batch.first_prompt)];
  for (std::size_t first = 0; first < selected.size(); first += num_rows) {
    const std::size_t count = std::min(num_rows, selected.size() - first);
    const auto rows = static_cast<std::int64_t>(count);
    const device::Buffer input_buffer =
        ops_.allocate(count * static_cast<std::size_t>(config_.hidden_size) * size_of(plan_.dtype));
    const device::Buffer logits_buffer = ops_.allocate(count * row_bytes);
    const auto input = device::Tensor::contiguous(input_buffer.data(), plan_.dtype, rows, config_.hidden_size);
    const auto logits = device::Tensor::contiguous(logits_buffer.data(), plan_.dtype, rows, config_.vocab_size);
    ops_.embedding({.out = input, .weight = normed, .input_ids = std::span(selected).subspan(first, count)});
    ops_.matmul({.out = logits, .x = input, .weight = head_weight});
    if (plan_.keeps_mean) {
      if (head_input) recorder_.record(*head_input, batch, input);
      if (head) recorder_.record(*head, batch, logits);
      continue;
    }
    const auto from = static_cast<std::int64_t>(first);
    const bool last = first + count == selected.size();
    if (plan_.top_k > 0) {
      std::vector<std::byte> on_host(row_bytes);
      for (std::int64_t row = 0; row < rows; ++row) {
        ops_.copy_to_host(on_host.data(), logits.row_slice(row, 1));
        rank_(first_file_row + from + row, largest(on_host.data(), plan_.dtype, config_.vocab_size, plan_.top_k));
      }
    }
    if (head_input) recorder_.record_selected(*head_input, batch, from, input, last);
    if (head) recorder_.record_selected(*head, batch, from, logits, last);
  }
}

model::Observe ForwardPass::observer(const capture::Batch& batch, std::int64_t layer) {
  const auto& kept = kept_[static_cast<std::size_t>(layer)];
  return {.wants =
              [&kept](std::string_view value) {
                return std::ranges::any_of(kept, [&](const auto& k) { return k.first == value; });
              },
          .see =
              [this, &kept, &batch](std::string_view value, const device::Tensor& tensor) {
                for (const auto& [kept_value, point] : kept) {
                  if (kept_value == value) recorder_.record(point, batch, tensor);
                }
              }};
}

void ForwardPass::record(std::string_view name, const capture::Batch& batch, const device::Tensor& value) {
  if (const auto point = plan_.find(name)) recorder_.record(*point, batch, value);
}

}  // namespace layerprobe::runtime
