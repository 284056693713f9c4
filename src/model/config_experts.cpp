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
  if (experts.first_k_dense_replace >= 0) {
    const std::int64_t first =
        reader.integer("first_k_dense_replace", experts.first_k_dense_replace, 0, INT64_C(1) << 40);
    std::fill_n(in_layer.begin(), std::min(first, num_layers), false);
    return in_layer;
  }
  const std::int64_t step = reader.integer("decoder_sparse_step", 1, 1, INT64_C(1) << 40);
  for (std::int64_t layer = 0; layer < num_layers; ++layer) {
    in_layer[static_cast<std::size_t>(layer)] = (layer + 1) % step == 0;
  }
  for (const double layer : reader.numbers("mlp_only_layers")) {
    if (layer >= 0 && layer < static_cast<double>(num_layers)) in_layer[static_cast<std::size_t>(layer)] = false;
  }
  return in_layer;
}

/// transformers calls one key num_experts in some families and num_local_experts in others, and reads both in all; in
/// one it is n_routed_experts, and num_local_experts another name.
std::int64_t read_num_experts(ConfigReader& reader, std::int64_t otherwise) {
  if (reader.find("n_routed_experts") != nullptr) {
    const std::int64_t routed = reader.integer("n_routed_experts", otherwise, 0, kMostExperts);
    for (const char* other : {"num_local_experts", "num_experts"}) {
      const std::int64_t number = reader.integer(other, routed, 0, kMostExperts);
      if (number == routed) continue;
      throw reader.refuse(other, text("is ", number, " where n_routed_experts is ", routed));
    }
    return routed;
  }
  const std::int64_t local = reader.integer("num_local_experts", 0, 0, kMostExperts);
  const std::int64_t plain = reader.integer("num_experts", local, 0, kMostExperts);
  if (local != 0 && plain != local) {
    throw reader.refuse("num_experts", text("is ", plain, " where num_local_experts is ", local));
  }
  const bool is_given = reader.find("num_experts") != nullptr || reader.find("num_local_experts") != nullptr;
  return is_given ? plain : otherwise;
}

/// n_group, topk_group and routed_scaling_factor of a family that has them, as `experts` says.
void read_groups(ConfigReader& reader, const Architecture::Experts& experts, ExpertsConfig& config) {
  Router& router = config.router;
  if (experts.router.n_group == 1) return;
  router.n_group = reader.integer("n_group", router.n_group, 1, kMostExperts);
  router.topk_group = reader.integer("topk_group", router.topk_group, 1, kMostExperts);
  router.routed_scaling_factor = reader.number("routed_scaling_factor", router.routed_scaling_factor, 0);
  if (config.num_experts == 0) return;
  const std::int64_t group_size = config.num_experts / router.n_group;
  if (group_size * router.n_group != config.num_experts || (router.n_group > 1 && group_size < 2)) {
    throw reader.refuse("n_group", text("is ", router.n_group, " where there are ", config.num_experts,
                                        " experts; groups are of one size, two experts at least"));
  }
  if (router.topk_group > router.n_group || router.topk_group * group_size < config.num_experts_per_tok) {
    throw reader.refuse("topk_group", text("is ", router.topk_group, " of ", router.n_group, " groups of ", group_size,
                                           " experts, of which a token chooses ", config.num_experts_per_tok));
  }
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
  for (const char* inert :
       {"router_aux_loss_coef", "output_router_logits", "router_jitter_noise", "shared_moe_mode",
        "mlp_intermediate_size", "mtp_transformer_layers", "aux_loss_alpha", "seq_aux", "ep_size"}) {
    reader.find(inert);
  }
  ExpertsConfig config{.router = experts.router, .names = experts.names, .in_layer = {}};
  config.num_experts = read_num_experts(reader, experts.num_experts);
  config.num_experts_per_tok = reader.integer("num_experts_per_tok", experts.num_experts_per_tok, 1, kMostExperts);
  config.moe_intermediate_size =
      experts.moe_intermediate_size > 0
          ? reader.integer("moe_intermediate_size", experts.moe_intermediate_size, 1, INT64_C(1) << 24)
          : out.intermediate_size;
  if (experts.has_norm_topk_prob_key) {
    const bool otherwise = config.router.normalizes && !reader.is_null("norm_topk_prob");  // null: not, in transformers
    config.router.normalizes = reader.boolean("norm_topk_prob", otherwise);
  }
  read_groups(reader, experts, config);
  if (experts.n_shared_experts > 0) {
    config.shared_intermediate_size =
        config.moe_intermediate_size * reader.integer("n_shared_experts", experts.n_shared_experts, 1, kMostExperts);
  }
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
