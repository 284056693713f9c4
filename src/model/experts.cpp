#include <algorithm>
#include <span>
#include <utility>
#include <vector>

#include "base/error.h"
#include "model/decoder_layer.h"

namespace layerprobe::model {
namespace {

device::Ops::Scores scores_of(const Router& router) {
  return router.scores == Router::Scores::softmax ? device::Ops::Scores::softmax : device::Ops::Scores::sigmoid;
}

constexpr MlpPoints kSharedExpertsPoints = {.gate_proj = ".mlp.shared_experts.gate_proj",
                                            .up_proj = ".mlp.shared_experts.up_proj",
                                            .act_fn = ".mlp.shared_experts.act_fn",
                                            .down_proj_input = ".mlp.shared_experts.down_proj:input",
                                            .down_proj = ".mlp.shared_experts.down_proj"};

/// One past the last of the experts from `first` on whose rows, `most_rows` at the most, go through together.
std::size_t end_of_group(std::span<const std::int64_t> first_rows, std::size_t first, std::int64_t most_rows) {
  std::size_t end = first + 1;
  while (end + 1 < first_rows.size() && first_rows[end + 1] - first_rows[first] <= most_rows) ++end;
  return end;
}

/// Brings those that have rows, and leaves of `first_rows` theirs.
Experts bring_chosen(const LayerWeights& weights, std::vector<std::int64_t>& first_rows) {
  std::vector<std::int64_t> chosen;
  for (std::size_t expert = 0; expert + 1 < first_rows.size(); ++expert) {
    if (first_rows[expert + 1] > first_rows[expert]) chosen.push_back(static_cast<std::int64_t>(expert));
  }
  first_rows.erase(std::unique(first_rows.begin(), first_rows.end()), first_rows.end());
  return weights.bring_experts(chosen);
}

/// a.normed in, a.expert_outputs out. `all_first_rows` is what group_by_expert gave.
void multiply_experts(const ExpertsConfig& config, const LayerWeights& weights,
                      std::vector<std::int64_t> all_first_rows, device::Ops& ops, const LayerValues& a) {
  Experts brought;
  if (weights.bring_experts) brought = bring_chosen(weights, all_first_rows);
  const Experts& experts = weights.bring_experts ? brought : weights.experts;
  // No expert has more rows than there are tokens.
  const std::int64_t most_rows = a.expert_inputs.rows;
  const std::int64_t width = config.moe_intermediate_size;
  const std::size_t num_experts = all_first_rows.size() - 1;
  for (std::size_t first = 0, end = 0; first < num_experts; first = end) {
    end = end_of_group(all_first_rows, first, most_rows);
    const std::span<const std::int64_t> first_rows = std::span(all_first_rows).subspan(first, end - first + 1);
    const std::int64_t rows = first_rows.back() - first_rows.front();
    ops.run_experts({.out = a.expert_outputs.row_slice(first_rows.front(), rows),
                     .x = a.normed,
                     .token_of_row = a.token_of_row.row_slice(first_rows.front(), rows),
                     .gate_up_proj = *experts.gate_up_proj,
                     .down_proj = *experts.down_proj,
                     .first_expert = static_cast<std::int64_t>(first),
                     .first_rows = first_rows,
                     .inputs = a.expert_inputs.row_slice(0, rows),
                     .gate_up = a.gate_up.row_slice(0, rows).column_slice(0, 2 * width),
                     .activated = a.activated.row_slice(0, rows).column_slice(0, width)});
  }
}

}  // namespace

void forward_experts(const ExpertsConfig& config, const LayerWeights& weights, device::Ops& ops, const LayerValues& a,
                     const Observe& observe) {
  device::Tensor router_inputs = a.normed;
  if (a.router_inputs.data != nullptr) {
    ops.expand({.out = a.router_inputs, .x = a.normed});
    router_inputs = a.router_inputs;
  }
  ops.matmul({.out = a.router_logits, .x = router_inputs, .weight = *weights.router});
  observe(".mlp.gate", a.router_logits);
  ops.route_tokens({.topk_indices = a.topk_indices,
                    .topk_weights = a.topk_weights,
                    .router_logits = a.router_logits,
                    .selection_bias = weights.selection_bias.tensor,
                    .scores = scores_of(config.router),
                    .normalizes = config.router.normalizes,
                    .rounds_weights = config.router.rounds_weights,
                    .num_groups = config.router.n_group,
                    .topk_groups = config.router.topk_group,
                    .divisor_epsilon = config.router.divisor_epsilon,
                    .scaling_factor = config.router.routed_scaling_factor});
  observe(".mlp:topk_indices", a.topk_indices);
  observe(".mlp:topk_weights", a.topk_weights);
  std::vector<std::int64_t> all_first_rows(static_cast<std::size_t>(config.num_experts) + 1);
  ops.group_by_expert({.row_of_choice = a.row_of_choice,
                       .token_of_row = a.token_of_row,
                       .topk_indices = a.topk_indices,
                       .first_rows = all_first_rows});
  multiply_experts(config, weights, std::move(all_first_rows), ops, a);
  ops.combine_experts({.out = a.block_output,
                       .expert_outputs = a.expert_outputs,
                       .row_of_choice = a.row_of_choice,
                       .topk_weights = a.topk_weights,
                       .rounds_products = config.router.rounds_weights});
  observe(".mlp.experts", a.block_output);
  if (config.shared_intermediate_size == 0) return;
  const device::Tensor shared = a.expert_inputs;  // which have been multiplied
  forward_mlp(config.shared_intermediate_size, weights, ops, a, shared, kSharedExpertsPoints, observe);
  ops.add({.out = a.block_output, .a = a.block_output, .b = shared});
  observe(".mlp", a.block_output);
}

}  // namespace layerprobe::model
