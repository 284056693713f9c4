#include "weights/gguf_model.h"

#include <algorithm>
#include <array>
#include <optional>
#include <set>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::weights {
namespace {

using Names = std::pair<std::string_view, std::string_view>;  // GGUF's, transformers'

constexpr std::array<Names, 3> kArchitectures = {{
    {"llama", "LlamaForCausalLM"},
    {"qwen2", "Qwen2ForCausalLM"},
    {"qwen3", "Qwen3ForCausalLM"},
}};

constexpr std::array<Names, 3> kModules = {{
    {"token_embd", "model.embed_tokens"},
    {"output_norm", "model.norm"},
    {"output", "lm_head"},
}};

constexpr std::array<Names, 11> kLayerModules = {{
    {"attn_norm", "input_layernorm"},
    {"attn_q", "self_attn.q_proj"},
    {"attn_k", "self_attn.k_proj"},
    {"attn_v", "self_attn.v_proj"},
    {"attn_output", "self_attn.o_proj"},
    {"attn_q_norm", "self_attn.q_norm"},
    {"attn_k_norm", "self_attn.k_norm"},
    {"ffn_norm", "post_attention_layernorm"},
    {"ffn_gate", "mlp.gate_proj"},
    {"ffn_up", "mlp.up_proj"},
    {"ffn_down", "mlp.down_proj"},
}};

/// The second of the pair whose first is `name`; nothing when there is none.
template <std::size_t size>
std::optional<std::string_view> look_up(const std::array<Names, size>& table, std::string_view name) {
  for (const auto& [from, to] : table) {
    if (from == name) return to;
  }
  return std::nullopt;
}

/// Reads the keys "<architecture>.<key>" and remembers which were asked for.
class ArchitectureKeys {
 public:
  ArchitectureKeys(const GgufHeader& header, const std::string& architecture, const std::string& where)
      : header_(header), prefix_(architecture + "."), where_(where) {}

  Error refuse(std::string_view key, std::string what) const {
    return Error({.kind = ErrorKind::input,
                  .where = where_,
                  .what = text("key ", prefix_, key, ": ", what),
                  .fix = "the file is damaged or of a model that is not supported; try its safetensors"});
  }

  /// nullptr when absent.
  const Json* find(std::string_view key) {
    const std::string whole = prefix_ + std::string(key);
    read_.insert(whole);
    const auto found = header_.values.find(whole);
    return found == header_.values.end() ? nullptr : &found->second;
  }

  /// From 1 to 2^31; an array of equal numbers, one a layer, counts as that number.
  std::optional<std::int64_t> find_size(std::string_view key) {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (value->is_array() && !value->items().empty()) {
      const Json& first = value->items().front();
      for (const Json& item : value->items()) {
        if (item.is_integer() && first.is_integer() && item.integer() == first.integer()) continue;
        throw refuse(key, "differs from layer to layer, which is not supported");
      }
      value = &first;
    }
    if (!value->is_integer() || value->integer() < 1 || value->integer() > INT64_C(1) << 31) {
      throw refuse(key, text("is ", value->dump().substr(0, 40), "; a size from 1 to 2^31 is due"));
    }
    return value->integer();
  }

  std::int64_t size(std::string_view key) {
    const std::optional<std::int64_t> value = find_size(key);
    if (!value) throw refuse(key, "is missing");
    return *value;
  }

  std::optional<double> find_positive(std::string_view key) {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_number() || !(value->number() > 0) || value->number() > 1e30) {
      throw refuse(key, text("is ", value->dump().substr(0, 40), "; a positive number is due"));
    }
    return value->number();
  }

  /// A key that may only say what this program does anyway.
  void expect_value(std::string_view key, double value) {
    const Json* found = find(key);
    if (found == nullptr) return;
    const double given = found->is_boolean() ? found->boolean() : found->is_number() ? found->number() : -1;
    if (given != value) throw refuse(key, text("is ", found->dump().substr(0, 40), "; only ", value, " is supported"));
  }

  void refuse_unread() const {
    const auto check = [&](const std::string& key) {
      if (!key.starts_with(prefix_) || read_.contains(key)) return;
      throw refuse(key.substr(prefix_.size()), "is not known, and may change what the model computes");
    };
    for (const auto& [key, value] : header_.values) check(key);
    for (const auto& [key, array] : header_.arrays) check(key);
  }

 private:
  const GgufHeader& header_;
  const std::string prefix_;
  const std::string& where_;
  std::set<std::string> read_;
};

std::string architecture_of(const GgufHeader& header, const std::string& where) {
  const auto found = header.values.find("general.architecture");
  const std::string name =
      found != header.values.end() && found->second.is_string() ? found->second.string().substr(0, 60) : "";
  if (look_up(kArchitectures, name)) return name;
  throw Error({.kind = ErrorKind::input,
               .where = where,
               .what = name.empty() ? "has no general.architecture" : text("architecture ", name, " is not supported"),
               .fix = "supported in GGUF: llama (also Mistral), qwen2, qwen3"});
}

/// rope_scaling, or null where there is none.
Json rope_scaling_of(ArchitectureKeys& keys) {
  const Json* type = keys.find("rope.scaling.type");
  const std::optional<double> factor = keys.find_positive("rope.scaling.factor");
  const std::optional<double> old_factor = keys.find_positive("rope.scale_linear");  // before rope.scaling.*
  const std::optional<std::int64_t> original = keys.find_size("rope.scaling.original_context_length");
  const std::optional<double> beta_fast = keys.find_positive("rope.scaling.yarn_beta_fast");
  const std::optional<double> beta_slow = keys.find_positive("rope.scaling.yarn_beta_slow");
  keys.find("rope.scaling.finetuned");  // a remark
  for (const char* key :
       {"rope.scaling.attn_factor", "rope.scaling.yarn_attn_factor", "rope.scaling.yarn_ext_factor"}) {
    keys.expect_value(key, 1);
  }
  const bool is_old_linear = type == nullptr && old_factor && *old_factor != 1;
  const std::string name = is_old_linear ? "linear" : type == nullptr || !type->is_string() ? "none" : type->string();
  if (name == "none") return nullptr;
  if (name != "linear" && name != "yarn") {
    throw keys.refuse("rope.scaling.type", text("is \"", name.substr(0, 40), "\"; supported are none, linear, yarn"));
  }
  if (!factor && !is_old_linear) throw keys.refuse("rope.scaling.factor", "is missing");
  Json out;
  out.set("type", name);
  out.set("factor", factor ? *factor : *old_factor);
  if (original) out.set("original_max_position_embeddings", *original);
  if (name == "yarn" && beta_fast) out.set("beta_fast", *beta_fast);
  if (name == "yarn" && beta_slow) out.set("beta_slow", *beta_slow);
  return out;
}

const TensorInfo* find_tensor(const std::vector<TensorInfo>& tensors, std::string_view name) {
  const auto found =
      std::find_if(tensors.begin(), tensors.end(), [&](const TensorInfo& tensor) { return tensor.name == name; });
  return found == tensors.end() ? nullptr : &*found;
}

/// "blk.7.attn_q.weight" is "model.layers.7.self_attn.q_proj.weight". Names outside the tables stay.
std::string transformers_name(const std::string& name) {
  const std::vector<std::string> parts = split(name, '.');
  if (parts.size() == 2) {
    if (const auto module = look_up(kModules, parts[0])) return text(*module, ".", parts[1]);
  }
  if (parts.size() == 4 && parts[0] == "blk") {
    if (const auto module = look_up(kLayerModules, parts[2])) {
      return text("model.layers.", parts[1], ".", *module, ".", parts[3]);
    }
  }
  return name;
}

}  // namespace

Json gguf_config(const GgufHeader& header, const std::vector<TensorInfo>& tensors, const std::string& where) {
  const std::string architecture = architecture_of(header, where);
  ArchitectureKeys keys(header, architecture, where);
  const std::optional<std::int64_t> window = keys.find_size("attention.sliding_window");
  const bool is_mistral = architecture == "llama" && window.has_value();
  if (window && !is_mistral) throw keys.refuse("attention.sliding_window", "is supported in llama files only");

  const std::int64_t hidden_size = keys.size("embedding_length");
  const std::int64_t num_attention_heads = keys.size("attention.head_count");
  const std::int64_t head_dim = keys.find_size("attention.key_length").value_or(hidden_size / num_attention_heads);
  const TensorInfo* embedding = find_tensor(tensors, "token_embd.weight");
  const std::optional<std::int64_t> vocab_size = keys.find_size("vocab_size");
  if (!vocab_size && embedding == nullptr) throw keys.refuse("vocab_size", "is missing, and there is no token_embd");

  Json out;
  out.set("architectures",
          Json::Array{is_mistral ? "MistralForCausalLM" : Json(*look_up(kArchitectures, architecture))});
  out.set("model_type", is_mistral ? "mistral" : architecture);
  out.set("hidden_act", "silu");
  out.set("hidden_size", hidden_size);
  out.set("intermediate_size", keys.size("feed_forward_length"));
  out.set("num_hidden_layers", keys.size("block_count"));
  out.set("num_attention_heads", num_attention_heads);
  out.set("num_key_value_heads", keys.find_size("attention.head_count_kv").value_or(num_attention_heads));
  out.set("head_dim", head_dim);
  const std::optional<double> eps = keys.find_positive("attention.layer_norm_rms_epsilon");
  if (!eps) throw keys.refuse("attention.layer_norm_rms_epsilon", "is missing");
  out.set("rms_norm_eps", *eps);
  out.set("vocab_size", vocab_size ? *vocab_size : embedding->shape.front());
  out.set("max_position_embeddings", keys.size("context_length"));
  out.set("rope_theta", keys.find_positive("rope.freq_base").value_or(10000.0));
  if (Json scaling = rope_scaling_of(keys); !scaling.is_null()) out.set("rope_scaling", std::move(scaling));
  if (window) out.set("sliding_window", *window);
  out.set("tie_word_embeddings", find_tensor(tensors, "output.weight") == nullptr);
  if (architecture == "llama" && find_tensor(tensors, "blk.0.attn_q.bias")) out.set("attention_bias", true);
  if (architecture == "llama" && find_tensor(tensors, "blk.0.ffn_gate.bias")) out.set("mlp_bias", true);
  out.set("torch_dtype", "bfloat16");

  // The rest may only say what these families do.
  keys.expect_value("rope.dimension_count", static_cast<double>(head_dim));
  keys.expect_value("attention.value_length", static_cast<double>(head_dim));
  keys.expect_value("attention.causal", 1);
  for (const char* key : {"expert_count", "expert_used_count", "use_parallel_residual", "pooling_type"}) {
    keys.expect_value(key, 0);
  }
  keys.find("tensor_data_layout");  // "Meta AI original pth": says that q and k are interleaved, which llama's are
  keys.refuse_unread();
  return out;
}

void use_transformers_names(std::vector<TensorInfo>& tensors, const GgufHeader& header, const Json& config,
                            const std::string& where) {
  const bool is_interleaved = architecture_of(header, where) == "llama";
  for (TensorInfo& tensor : tensors) {
    tensor.name = transformers_name(tensor.name);
    const bool is_q = tensor.name.find(".self_attn.q_proj.") != std::string::npos;
    const bool is_k = tensor.name.find(".self_attn.k_proj.") != std::string::npos;
    if (!is_interleaved || !(is_q || is_k)) continue;
    const std::int64_t heads = config.find(is_q ? "num_attention_heads" : "num_key_value_heads")->integer();
    if (tensor.shape[0] % (2 * heads) != 0) {
      throw Error({.kind = ErrorKind::input,
                   .where = where,
                   .what = text("tensor ", tensor.name, ": ", tensor.shape[0], " rows are no ", heads,
                                " heads of an even size"),
                   .fix = "the metadata and the tensors are of different models; fetch the file again"});
    }
    if (tensor.shape.size() == 1 && traits_of(tensor.storage).block_elements != 1) {
      throw Error({.kind = ErrorKind::input,
                   .where = where,
                   .what = text("tensor ", tensor.name, ": is one row of ", name_of(tensor.storage),
                                " blocks, whose values cannot be put in transformers' order"),
                   .fix = "convert the model again, with its biases in F32"});
    }
    tensor.interleaved_heads = heads;
  }
}

}  // namespace layerprobe::weights
