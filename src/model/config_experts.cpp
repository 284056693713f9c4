#include "model/config_experts.h"

#include <algorithm>

#include "base/text.h"

namespace layerprobe::model {
namespace {

constexpr std::int64_t kMostExperts = 1024;  // that kernels/route_tokens.h takes

/// The layers that have experts: MoE iff not in mlp_only_layers and (layer + 1) % decoder_sparse_step == 0.
std::vector<bool> layers_with_experts(ConfigReader& reader, const Architecture::Experts& experts,
                                      std::int64_t num_layers) {
  std::vector<bool> in_layer(static_cast<std::size_t>(num_layers), true);
  if (!experts.has_dense_layers) return in_layer;
  const std::int64_t step = reader.integer("decoder_sparse_step", 1, 1, INT64_C(1) << 40);
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    in_layer[static_cast<std::size_t>(layer)] = (layer + 1) % step == 0;
  }
  for (const double layer : reader.numbers("mlp_only_layers")) {
    if (layer >= 0 && layer < static_cast<double>(num_layers)) in_layer[static_cast<std::size_t>(layer)] = false;
  }
  return in_layer;
}

/// transformers calls one key num_experts in some families and num_local_experts in others, and reads both in all.
std::int64_t read_num_experts(ConfigReader& reader, std::int64_t otherwise) {
  const std::int64_t local = reader.integer("num_local_experts", 0, 0, kMostExperts);
  const std::int64_t plain = reader.integer("num_experts", local, 0, kMostExperts);
  if (local != 0 && plain != local) {
    throw reader.refuse("num_experts", text("is ", plain, " where num_local_experts is ", local));
  }
  const bool is_given = reader.find("num_experts") != nullptr || reader.find("num_local_experts") != nullptr;
  return is_given ? plain : otherwise;
}

bool is_same(const Json& value, const Json& wanted) {
  if (value.is_number() && wanted.is_number()) return value.number() == wanted.number();
  if (!value.is_array()) return value.dump() == wanted.dump();
  return std::ranges::all_of(value.items(), [&](const Json& item) { return is_same(item, wanted); });
}

}  // namespace

std::optional<ExpertsConfig> read_experts(ConfigReader& reader, const Architecture& family, const ModelConfig& out) {
  if (!family.experts) return std::nullopt;
  const Architecture::Experts& experts = *family.experts;
  // Of the training, or of parts that the files do not have or transformers does not run.
  for (const char* inert : {"router_aux_loss_coef", "output_router_logits", "router_jitter_noise", "shared_moe_mode",
                            "mlp_intermediate_size", "mtp_transformer_layers"}) {
    reader.find(inert);
  }
  ExpertsConfig config{.router = experts.router, .names = experts.names, .in_layer = {}};
  config.num_experts = read_num_experts(reader, experts.num_experts);
  config.num_experts_per_tok = reader.integer("num_experts_per_tok", experts.num_experts_per_tok, 1, kMostExperts);
  config.moe_intermediate_size =
      experts.moe_intermediate_size > 0
          ? reader.integer("moe_intermediate_size", experts.moe_intermediate_size, 1, INT64_C(1) << 24)
          : out.intermediate_size;
  if (experts.has_norm_topk_prob_key) config.router.normalizes = reader.boolean("norm_topk_prob", false);
  config.in_layer = layers_with_experts(reader, experts, out.num_hidden_layers);
  if (config.num_experts == 0) {
    if (!experts.has_dense_layers) throw reader.refuse("num_local_experts", "is 0; this family has experts");
    return std::nullopt;
  }
  if (config.num_experts_per_tok > config.num_experts) {
    throw reader.refuse("num_experts_per_tok",
                        text("is ", config.num_experts_per_tok, " where there are ", config.num_experts, " experts"));
  }
  if (std::ranges::find(config.in_layer, true) == config.in_layer.end()) return std::nullopt;
  return config;
}

void check_fixed_keys(ConfigReader& reader, const Architecture& family) {
  for (const FixedKey& fixed : family.fixed_keys) {
    const Json* value = reader.find(fixed.key);
    if (value == nullptr || is_same(*value, Json::parse(fixed.value, "a fixed key"))) continue;
    throw reader.refuse(fixed.key, text("is ", value->dump().substr(0, 60), "; ", family.model_type,
                                        " is supported with ", fixed.value, " only"));
  }
}

}  // namespace layerprobe::model
