#include "model/config.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <string_view>

#include "base/error.h"
#include "base/text.h"
#include "model/architectures.h"
#include "model/config_experts.h"
#include "model/config_reader.h"

namespace layerprobe::model {
namespace {

constexpr std::int64_t kMaxWidth = std::int64_t{1} << 24;

/// Keys without influence on the hidden states: names, training, generation, how transformers runs.
constexpr std::array<std::string_view, 48> kInertKeys = {"_attn_implementation",
                                                         "_attn_implementation_autoset",
                                                         "_flash_attn_2_enabled",
                                                         "_name_or_path",
                                                         "add_cross_attention",
                                                         "architectures",
                                                         "attention_dropout",
                                                         "attn_implementation",
                                                         "auto_map",
                                                         "bad_words_ids",
                                                         "begin_suppress_tokens",
                                                         "bos_token_id",
                                                         "chunk_size_feed_forward",
                                                         "cross_attention_hidden_size",
                                                         "decoder_start_token_id",
                                                         "dtype",
                                                         "embd_pdrop",
                                                         "eos_token_id",
                                                         "finetuning_task",
                                                         "forced_bos_token_id",
                                                         "forced_eos_token_id",
                                                         "gradient_checkpointing",
                                                         "id2label",
                                                         "initializer_range",
                                                         "is_decoder",
                                                         "is_encoder_decoder",
                                                         "is_llama_config",
                                                         "keys_to_ignore_at_inference",
                                                         "label2id",
                                                         "max_length",
                                                         "model_name",
                                                         "output_attentions",
                                                         "output_hidden_states",
                                                         "pad_token_id",
                                                         "pretraining_tp",
                                                         "problem_type",
                                                         "pruned_heads",
                                                         "resid_pdrop",
                                                         "return_dict",
                                                         "sep_token_id",
                                                         "task_specific_params",
                                                         "tokenizer_class",
                                                         "torch_dtype",
                                                         "torchscript",
                                                         "transformers_version",
                                                         "unsloth_version",
                                                         "use_cache",
                                                         "use_flash_attn"};

/// A key we do not know changes the math, as far as its name tells, when it holds one of these.
constexpr std::array<std::string_view, 36> kTellingWords = {
    "act",       "alibi", "attention", "attn",   "bias",       "bidirectional", "cap",      "causal", "clip",
    "embedding", "eps",   "expert",    "factor", "head",       "hidden",        "kv_",      "layer",  "layernorm",
    "logit",     "mask",  "mlp",       "moe",    "multiplier", "norm",          "position", "qk_",    "quant",
    "residual",  "rope",  "rotary",    "router", "scal",       "scoring",       "sink",     "topk",   "window"};

/// null, false, 0, "" and empty containers say "no such thing".
bool says_no(const Json& value) {
  if (value.is_null()) return true;
  if (value.is_boolean()) return !value.boolean();
  if (value.is_number()) return value.number() == 0;
  if (value.is_string()) return value.string().empty() || value.string() == "none";
  if (value.is_array()) return value.items().empty();
  return value.members().empty();
}

bool is_telling(std::string_view key) {
  return std::any_of(kTellingWords.begin(), kTellingWords.end(),
                     [&](std::string_view word) { return key.find(word) != std::string_view::npos; });
}

constexpr const char* kOtherCheckpoint =
    "supported is quant_method \"fp8\" with blocks; else use the model's bfloat16 or float16 checkpoint, or a GGUF";

/// quantization_config, of FP8 with a factor for each block. Which tensors are FP8 the checkpoint's headers say.
std::optional<Fp8Blocks> read_fp8(ConfigReader& reader, const std::string& where) {
  const Json* dictionary = reader.find("quantization_config");
  if (dictionary == nullptr) return std::nullopt;
  ConfigReader fp8(*dictionary, where + ": quantization_config");
  const auto expect_one_of = [&](const char* key, std::initializer_list<const char*> supported) {
    const std::string value = fp8.string(key, *supported.begin());
    for (const char* one : supported) {
      if (value == one) return;
    }
    throw fp8.refuse(key, text("is \"", value, "\", which is not supported"), kOtherCheckpoint);
  };
  if (fp8.string("quant_method", "") != "fp8") {
    throw fp8.refuse("quant_method", text("is \"", fp8.string("quant_method", ""), "\", which is not supported"),
                     kOtherCheckpoint);
  }
  expect_one_of("activation_scheme", {"dynamic"});
  expect_one_of("fmt", {"e4m3", "float8_e4m3fn"});
  expect_one_of("scale_fmt", {"float", "ue8m0"});
  for (const char* known : {"modules_to_not_convert", "ignored_layers", "dequantize"}) fp8.find(known);
  if (fp8.is_null("weight_block_size")) {
    throw fp8.refuse("weight_block_size", "is null: one factor a tensor is not supported", kOtherCheckpoint);
  }
  std::vector<double> size = fp8.numbers("weight_block_size");
  if (size.empty()) size = {128, 128};
  const auto is_size = [](double value) { return value >= 1 && value <= 65'536 && value == std::floor(value); };
  if (size.size() != 2 || !is_size(size[0]) || !is_size(size[1])) {
    throw fp8.refuse("weight_block_size", text("is ", fp8.find("weight_block_size")->dump().substr(0, 60),
                                               "; expected two sizes, as in [128, 128]"));
  }
  for (const auto* member : fp8.unread()) {
    if (!says_no(member->second)) throw fp8.refuse(member->first, "is not known here", kOtherCheckpoint);
  }
  return Fp8Blocks{.rows = static_cast<std::int64_t>(size[0]), .columns = static_cast<std::int64_t>(size[1])};
}

/// Keys that must have one value because the math of every other is missing here.
void refuse_other_math(ConfigReader& reader) {
  const std::string act = reader.string("hidden_act", "silu");
  if (act != "silu" && act != "swish") {
    throw reader.refuse("hidden_act", text("is \"", act, "\"; only \"silu\" is supported"));
  }
  if (reader.find("compression_config") != nullptr) {
    throw reader.refuse("compression_config", "checkpoints quantised so are not supported", kOtherCheckpoint);
  }
  if (!reader.boolean("is_causal", true)) {
    throw reader.refuse("is_causal", "is false: attention to the tokens behind is not supported");
  }
}

/// Keys of the rotation's dictionary that nobody asked for: an error unless they are without effect for this type.
void refuse_unknown_rope_keys(const ConfigReader& rope, const std::string& rope_type) {
  static constexpr std::array<std::string_view, 14> kOfOtherTypes = {
      "finetuned",        "attention_factor", "beta_fast",       "beta_slow",        "factor",
      "high_freq_factor", "long_factor",      "low_freq_factor", "mscale",           "truncate",
      "mscale_all_dim",   "mrope_section",    "short_factor",    "mrope_interleaved"};
  for (const auto* member : rope.unread()) {
    const auto& [key, value] = *member;
    if (says_no(value)) continue;
    if (std::find(kOfOtherTypes.begin(), kOfOtherTypes.end(), key) != kOfOtherTypes.end()) continue;
    throw rope.refuse(key, text("is not known for rope_type \"", rope_type, "\""),
                      "remove the key if it is without effect, else this model needs a newer program");
  }
}

/// The keys that only some rope types have.
void read_rope_type(ConfigReader& rope, RopeParameters& out, std::int64_t rotary_dim) {
  const std::string& type = out.rope_type;
  const auto needed = [&](std::string_view key, double above) {
    if (rope.find(key) == nullptr) throw rope.refuse(key, text("is missing; rope_type \"", type, "\" needs it"));
    return rope.number(key, 0, above);
  };
  if (type == "linear" || type == "dynamic" || type == "llama3") out.factor = needed("factor", 0);
  if ((type == "yarn" || type == "longrope" || type == "proportional") && rope.find("factor") != nullptr) {
    out.factor = rope.number("factor", 1, 0);
  }
  if (type == "dynamic" && rotary_dim <= 2) throw rope.refuse("rope_type", "\"dynamic\" needs a head_dim above 2");
  if (type == "llama3") {
    out.low_freq_factor = needed("low_freq_factor", 0);
    out.high_freq_factor = needed("high_freq_factor", 0);
    if (out.high_freq_factor == out.low_freq_factor)
      throw rope.refuse("high_freq_factor", "is equal to low_freq_factor");
  }
  if (type == "yarn" || type == "longrope") out.attention_factor = rope.optional_number("attention_factor");
  if (type == "yarn") {
    if (out.rope_theta == 1) throw rope.refuse("rope_theta", "is 1, which rope_type \"yarn\" cannot have");
    const auto unless_zero = [&](std::string_view key, double otherwise) {
      const double value = rope.number(key, otherwise, -1e-300);
      return value == 0 ? otherwise : value;
    };
    out.beta_fast = unless_zero("beta_fast", 32);
    out.beta_slow = unless_zero("beta_slow", 1);
    out.mscale = rope.optional_number("mscale");
    out.mscale_all_dim = rope.optional_number("mscale_all_dim");
    out.truncate = rope.boolean("truncate", !rope.is_null("truncate"));  // null: no, in transformers
  }
  if (type == "longrope") {
    out.short_factor = rope.numbers("short_factor");
    out.long_factor = rope.numbers("long_factor");
    for (const auto& [key, factors] :
         {std::pair{"short_factor", &out.short_factor}, {"long_factor", &out.long_factor}}) {
      if (static_cast<std::int64_t>(factors->size()) == rotary_dim / 2) continue;
      throw rope.refuse(key, text("has ", factors->size(), " numbers; expected rotary_dim / 2 = ", rotary_dim / 2));
    }
  }
}

/// Of each head: all of it, but for families that rotate a part and say which.
std::int64_t read_rotary_dim(ConfigReader& reader, ConfigReader& rope, const Architecture& family,
                             const ModelConfig& config) {
  const std::int64_t head_dim = config.head_dim;
  if (config.latent) return config.latent->qk_rope_head_dim;
  if (!family.rotates_part) return head_dim;
  const double top_level = reader.number("partial_rotary_factor", 0, 0);
  const double factor = rope.number("partial_rotary_factor", top_level, 0);
  const auto by_factor = static_cast<std::int64_t>(static_cast<double>(head_dim) * factor);
  const std::int64_t rotary_dim = reader.integer("rotary_dim", by_factor, 1, head_dim);
  if (rotary_dim == 0) {
    throw reader.refuse("rotary_dim",
                        "is missing, and so is partial_rotary_factor: programs disagree on what that means",
                        "write \"rotary_dim\" into config.json: how many dimensions of each head are rotated (64 of "
                        "MiniMax-M2's 128)");
  }
  if (by_factor != 0 && rotary_dim != by_factor) {
    throw reader.refuse("rotary_dim", text("is ", rotary_dim, " where partial_rotary_factor says ", by_factor));
  }
  if (rotary_dim % 2 != 0 || rotary_dim > head_dim) {
    throw reader.refuse("rotary_dim", text("is ", rotary_dim, "; expected an even number up to head_dim = ", head_dim));
  }
  return rotary_dim;
}

RopeParameters read_rope(ConfigReader& reader, const std::string& where, const Architecture& family,
                         ModelConfig& config) {
  const auto max_position_embeddings = static_cast<double>(config.max_position_embeddings);
  const Json empty(Json::Object{});
  const Json* old_spelling = reader.find("rope_scaling");
  const Json* new_spelling = reader.find("rope_parameters");
  const bool use_old = old_spelling != nullptr && !says_no(*old_spelling);  // transformers 5: rope_scaling goes first
  const Json& dictionary = use_old ? *old_spelling : new_spelling != nullptr ? *new_spelling : empty;
  ConfigReader rope(dictionary, where + (use_old ? ": rope_scaling" : ": rope_parameters"));

  // transformers gives a default to what is absent, and none to a null.
  for (const char* key : {"rope_type", "rope_theta"}) {
    if (rope.is_null(key)) throw rope.refuse(key, "is null", "remove the key, or give it a value");
  }
  RopeParameters out;
  const std::string old_type = rope.string("type", "default");
  out.rope_type = rope.string("rope_type", old_type);
  if (out.rope_type == "mrope") out.rope_type = "default";
  static constexpr std::array<std::string_view, 7> kTypes = {"default", "linear",   "dynamic",     "llama3",
                                                             "yarn",    "longrope", "proportional"};
  if (std::find(kTypes.begin(), kTypes.end(), out.rope_type) == kTypes.end()) {
    throw rope.refuse("rope_type", text("is \"", out.rope_type,
                                        "\"; supported are default, linear, dynamic, llama3, "
                                        "yarn, longrope, proportional"));
  }
  const double top_level_theta = reader.number("rope_theta", family.rope_theta, 0);
  out.rope_theta = rope.number("rope_theta", top_level_theta, 0);
  config.rotary_dim = read_rotary_dim(reader, rope, family, config);
  const double top_level_partial = reader.number("partial_rotary_factor", 1.0, 0);
  out.partial_rotary_factor = rope.number("partial_rotary_factor", top_level_partial, 0);
  const bool may_be_partial = out.rope_type == "proportional" || family.rotates_part;
  if (out.partial_rotary_factor > 1 || (out.partial_rotary_factor != 1 && !may_be_partial)) {
    throw rope.refuse("partial_rotary_factor", text("is ", out.partial_rotary_factor, "; with rope_type \"",
                                                    out.rope_type, "\" this family rotates whole heads"));
  }
  if ((family.rotates_part || config.latent) && out.rope_type == "proportional") {
    throw rope.refuse("rope_type", text("is \"proportional\", which ", family.model_type, " does not have here"));
  }
  read_rope_type(rope, out, config.rotary_dim);
  if (config.latent && out.rope_type != "default") {  // it scales the attention of every such type
    out.mscale_all_dim = rope.optional_number("mscale_all_dim");
    if (out.mscale_all_dim.value_or(0) != 0 && !out.factor) {
      throw rope.refuse("factor", "is missing; mscale_all_dim needs it");
    }
  }
  // A top-level value wins; types that have no use for it may carry it.
  const double in_dictionary = rope.number("original_max_position_embeddings", max_position_embeddings, 0);
  out.original_max_position_embeddings = reader.number("original_max_position_embeddings", in_dictionary, 0);
  if (out.rope_type == "longrope" && !out.attention_factor && !(out.original_max_position_embeddings > 1)) {
    throw rope.refuse("original_max_position_embeddings",
                      text("is ", out.original_max_position_embeddings, "; expected more than 1"));
  }
  refuse_unknown_rope_keys(rope, out.rope_type);
  return out;
}

/// layer_types, checked; empty when the config has none.
std::vector<std::string> read_layer_types(ConfigReader& reader, std::int64_t num_layers) {
  std::vector<std::string> out;
  const Json* types = reader.find("layer_types");
  if (types == nullptr) return out;
  if (!types->is_array() || static_cast<std::int64_t>(types->items().size()) != num_layers) {
    throw reader.refuse("layer_types", text("is no array of num_hidden_layers = ", num_layers, " names"));
  }
  for (const Json& type : types->items()) {
    const std::string name = type.is_string() ? type.string() : "";
    if (name != "full_attention" && name != "attention" && name != "sliding_attention") {
      throw reader.refuse("layer_types", text("holds ", type.dump().substr(0, 60),
                                              "; supported are \"full_attention\" and \"sliding_attention\""));
    }
    out.push_back(name == "attention" ? "full_attention" : name);  // its name in transformers before 5
  }
  return out;
}

/// The window of each layer, from sliding_window, use_sliding_window, max_window_layers and layer_types.
std::vector<std::int64_t> read_windows(ConfigReader& reader, const Architecture& family, std::int64_t num_layers) {
  using Windows = Architecture::Windows;
  const std::int64_t otherwise = reader.is_null("sliding_window") ? 0 : family.sliding_window;
  std::int64_t window = reader.integer("sliding_window", otherwise, 1, INT64_C(1) << 40);
  const bool use_sliding_window = reader.boolean("use_sliding_window", false);
  const std::int64_t first_layer = reader.integer("max_window_layers", family.max_window_layers, 0, INT64_C(1) << 40);
  const bool asks = family.windows == Windows::use_sliding_window || family.windows == Windows::every_layer_if_used;
  if (asks && !use_sliding_window) window = 0;
  if (family.windows == Windows::none && window != 0) {
    throw reader.refuse("sliding_window", text("is ", window, "; ", family.model_type, " has no window"));
  }

  const std::vector<std::string> layer_types = read_layer_types(reader, num_layers);
  std::vector<std::int64_t> windows(static_cast<std::size_t>(num_layers), 0);
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    const auto at = static_cast<std::size_t>(layer);
    const bool by_rule = window != 0 && (family.windows != Windows::use_sliding_window || layer >= first_layer);
    const bool slides = layer_types.empty() ? by_rule : layer_types[at] == "sliding_attention";
    if (slides != by_rule && family.windows != Windows::use_sliding_window) {
      throw reader.refuse("layer_types", text("says ", layer_types[at], " for layer ", layer, "; all layers of ",
                                              family.model_type, " are alike"));
    }
    if (slides && window == 0) {
      throw reader.refuse("layer_types", text("says sliding_attention for layer ", layer,
                                              ", but sliding_window is null or use_sliding_window is not true"));
    }
    windows[at] = slides ? window : 0;
  }
  return windows;
}

std::optional<Dtype> read_dtype(ConfigReader& reader) {
  const std::string old_spelling = reader.string("torch_dtype", "");
  const std::string name = reader.string("dtype", old_spelling);
  if (name.empty() || name == "auto") return std::nullopt;
  const std::optional<Dtype> dtype = find_dtype(name);
  if (!dtype) {
    throw reader.refuse("dtype", text("is \"", name, "\"; expected bfloat16, float16, float32 or float64"));
  }
  return dtype;
}

/// The keys of latent attention in place of head_dim, which transformers overwrites.
void read_latent(ConfigReader& reader, const LatentAttention& otherwise, ModelConfig& out) {
  LatentAttention latent;
  if (!reader.is_null("q_lora_rank")) {
    latent.q_lora_rank = reader.integer("q_lora_rank", otherwise.q_lora_rank, 1, kMaxWidth);
  }
  latent.kv_lora_rank = reader.integer("kv_lora_rank", otherwise.kv_lora_rank, 1, kMaxWidth);
  latent.qk_nope_head_dim = reader.integer("qk_nope_head_dim", otherwise.qk_nope_head_dim, 1, 32'768);
  latent.qk_rope_head_dim = reader.integer("qk_rope_head_dim", otherwise.qk_rope_head_dim, 2, 32'768);
  latent.v_head_dim = reader.integer("v_head_dim", otherwise.v_head_dim, 1, 65'536);
  latent.rope_interleave = reader.boolean("rope_interleave", !reader.is_null("rope_interleave"));
  if (latent.qk_rope_head_dim % 2 != 0) {
    throw reader.refuse("qk_rope_head_dim", text("is ", latent.qk_rope_head_dim, "; the rotation needs an even one"));
  }
  if (out.num_key_value_heads != out.num_attention_heads) {
    throw reader.refuse("num_key_value_heads", text("is ", out.num_key_value_heads, "; with latent attention it is ",
                                                    "num_attention_heads = ", out.num_attention_heads));
  }
  for (const char* overwritten : {"head_dim", "qk_head_dim"}) reader.find(overwritten);
  out.head_dim = latent.qk_nope_head_dim + latent.qk_rope_head_dim;
  out.num_mtp_layers = reader.integer("num_nextn_predict_layers", 1, 0, 1000);
  out.num_mtp_layers = reader.integer("num_mtp_layers", out.num_mtp_layers, 0, 1000);
  out.latent = latent;
  if (out.attention_size() > kMaxWidth) throw reader.refuse("num_attention_heads", "times v_head_dim is out of range");
}

void read_shapes(ConfigReader& reader, const Architecture& family, ModelConfig& out) {
  out.vocab_size = reader.integer("vocab_size", family.vocab_size, 1, INT64_C(1) << 31);
  out.hidden_size = reader.integer("hidden_size", family.hidden_size, 1, kMaxWidth);
  out.intermediate_size = reader.integer("intermediate_size", family.intermediate_size, 1, kMaxWidth);
  out.num_hidden_layers = reader.integer("num_hidden_layers", family.num_hidden_layers, 1, 100'000);
  out.num_attention_heads = reader.integer("num_attention_heads", family.num_attention_heads, 1, kMaxWidth);
  const bool as_many = family.num_key_value_heads == 0 || reader.is_null("num_key_value_heads");
  out.num_key_value_heads = reader.integer(
      "num_key_value_heads", as_many ? out.num_attention_heads : family.num_key_value_heads, 1, kMaxWidth);
  const bool from_hidden_size = family.head_dim == 0 || reader.is_null("head_dim");
  const std::int64_t quotient = std::max<std::int64_t>(out.hidden_size / out.num_attention_heads, 1);
  if (family.latent) {
    read_latent(reader, *family.latent, out);
  } else {
    out.head_dim = reader.integer("head_dim", from_hidden_size ? quotient : family.head_dim, 1, 65'536);
  }
  out.max_position_embeddings =
      reader.integer("max_position_embeddings", family.max_position_embeddings, 1, INT64_C(1) << 40);
  out.rms_norm_eps = reader.number("rms_norm_eps", family.rms_norm_eps, -1e-300);
  out.tie_word_embeddings = reader.boolean("tie_word_embeddings", false);

  if (out.num_attention_heads % out.num_key_value_heads != 0) {
    throw reader.refuse("num_key_value_heads",
                        text("is ", out.num_key_value_heads,
                             ", which does not divide num_attention_heads = ", out.num_attention_heads));
  }
  if (out.head_dim % 2 != 0 && !out.latent) {
    throw reader.refuse("head_dim", text("is ", out.head_dim,
                                         " (hidden_size / num_attention_heads where the key is absent); the rotation "
                                         "needs an even one"));
  }
  if (out.query_size() > kMaxWidth) throw reader.refuse("num_attention_heads", "times head_dim is out of range");
}

void sort_unread(const ConfigReader& reader, ModelConfig& out) {
  for (const auto* member : reader.unread()) {
    const auto& [key, value] = *member;
    if (std::find(kInertKeys.begin(), kInertKeys.end(), key) != kInertKeys.end()) continue;
    if (is_telling(key) && !says_no(value)) {
      throw reader.refuse(key,
                          text("is ", value.dump().substr(0, 60),
                               ": a key that is not known here and, by its name, changes what the model computes"),
                          "remove the key if it is without effect, else this model needs a newer program");
    }
    out.unused_keys.push_back(key);
  }
}

}  // namespace

bool ModelConfig::has_dense_layers() const {
  return !experts || std::ranges::find(experts->in_layer, false) != experts->in_layer.end();
}

std::int64_t ModelConfig::qkv_size() const {
  if (!latent) return query_size() + 2 * key_value_size();
  const std::int64_t query = latent->q_lora_rank > 0 ? latent->q_lora_rank : query_size();
  return query + latent->kv_lora_rank + latent->qk_rope_head_dim;
}

ModelConfig read_config(const Json& config, const std::string& where) {
  ConfigReader top(config, where);
  ModelConfig out;
  out.model_type = top.string("model_type", "");
  // Early config.json of MiniMax-M2 say "minimax", which is another family's name.
  const Json* classes = top.find("architectures");
  if (out.model_type == "minimax" && classes != nullptr && classes->dump() == "[\"MiniMaxM2ForCausalLM\"]") {
    out.model_type = "minimax_m2";
  }
  const Architecture* family = find_architecture(out.model_type);
  if (family == nullptr) {
    const std::vector<std::string> supported = supported_architectures();
    throw Error({.kind = ErrorKind::input,
                 .where = where,
                 .what = out.model_type.empty() ? "has no model_type"
                                                : text("model_type \"", out.model_type, "\" is not supported"),
                 .fix = text("supported are ", join(supported, ", "))});
  }
  const Json* const text_config = family->is_vision_language ? top.find("text_config") : nullptr;
  std::optional<ConfigReader> nested;
  if (text_config != nullptr) nested.emplace(*text_config, where + ": text_config");
  ConfigReader& reader = nested ? *nested : top;
  if (family->is_vision_language) {
    out.decoder = "model.language_model";
    for (const char* other : {"vision_config", "image_token_id", "video_token_id", "vision_start_token_id",
                              "vision_end_token_id", "vision_token_id"}) {
      top.find(other);
    }
    reader.find("model_type");
  }
  refuse_other_math(reader);
  out.fp8 = read_fp8(top, where);
  read_shapes(reader, *family, out);
  if (nested) {  // transformers 5 ties by the outer key, and for one family by either
    const bool is_tied_inside = out.model_type == "qwen2_5_vl" && out.tie_word_embeddings;
    out.tie_word_embeddings = top.boolean("tie_word_embeddings", false) || is_tied_inside;
  }

  using Biases = Architecture::Biases;
  const bool attention_bias =
      family->attention_biases == Biases::attention_bias && reader.boolean("attention_bias", false);
  out.qkv_bias = attention_bias || family->attention_biases == Biases::qkv;
  out.o_bias = attention_bias;
  out.mlp_bias = family->has_mlp_bias_key && reader.boolean("mlp_bias", false);
  out.qk_norm = family->qk_norm;
  out.sliding_window = read_windows(reader, *family, out.num_hidden_layers);
  out.rope = read_rope(reader, reader.where(), *family, out);
  out.experts = read_experts(reader, *family, out);
  check_fixed_keys(reader, *family);
  out.dtype = read_dtype(top);
  if (nested) {
    const std::optional<Dtype> inside = read_dtype(*nested);
    if (!out.dtype) out.dtype = inside;
    sort_unread(*nested, out);
  }
  sort_unread(top, out);
  return out;
}

}  // namespace layerprobe::model
