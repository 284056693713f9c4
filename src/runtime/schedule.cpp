#include "runtime/schedule.h"

#include <optional>

#include "base/probe_point.h"

namespace layerprobe::runtime {
namespace {

/// Where one prompt starts; nothing when it is done.
struct Start {
  std::size_t first_layer = 0;
  bool from_capture = false;

  bool operator==(const Start&) const = default;
};

std::optional<Start> start_of(const plan::Plan& plan, bool keeps_all_tokens, std::int64_t prompt,
                              const IsComplete& is_complete) {
  std::size_t complete = 0;  // the points before which nothing is missing
  while (complete < plan.points.size() && is_complete(complete, prompt)) ++complete;
  if (complete == plan.points.size()) return std::nullopt;
  Start start;
  if (plan.test_type == plan::TestType::single || !keeps_all_tokens) return start;
  for (std::size_t at = 0; at + 1 <= plan.layers.size(); ++at) {
    const auto output = plan.find_block(plan.layers[at]);
    if (output && *output < complete && plan.points[*output].stored)
      start = {.first_layer = at + 1, .from_capture = true};
  }
  return start;
}

}  // namespace

std::vector<Task> schedule(const plan::Plan& plan, const Prompts& prompts, const IsComplete& is_complete) {
  const bool keeps_all_tokens = !plan.keeps_mean && plan.rows.cu_rows == prompts.cu_seqlens;
  std::vector<Task> tasks;
  std::optional<Start> open;  // of the last task, while it may grow
  for (std::int64_t prompt = 0; prompt < prompts.num_prompts(); ++prompt) {
    const std::optional<Start> start = start_of(plan, keeps_all_tokens, prompt, is_complete);
    const std::int64_t length = prompts.length(prompt);
    if (!start) {
      open.reset();  // a batch holds neighbours only
      continue;
    }
    const bool grows = open == start && tasks.back().batch.num_tokens() + length <= plan.tokens_per_batch;
    if (!grows) {
      tasks.push_back({.batch = {.first_prompt = prompt, .cu_seqlens = {0}},
                       .first_layer = start->first_layer,
                       .from_capture = start->from_capture});
    }
    std::vector<std::int64_t>& cu_seqlens = tasks.back().batch.cu_seqlens;
    cu_seqlens.push_back(cu_seqlens.back() + length);
    open = start;
  }
  return tasks;
}

}  // namespace layerprobe::runtime
