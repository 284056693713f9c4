#include <string>
#include <vector>

#include "base/bytes.h"
#include "base/text.h"
#include "placement/budgets.h"
#include "placement/device_map.h"
#include "placement/max_memory.h"
#include "plan/plan.h"
#include "plan/selection.h"
#include "runtime/input.h"
#include "tests/fuzz/targets.h"

namespace layerprobe::fuzz {
namespace {

/// Enough points to match: three layers'.
std::vector<ProbePoint> points() {
  std::vector<ProbePoint> out = {{"model.embed_tokens"}};
  for (const char* layer : {"model.layers.0", "model.layers.1", "model.layers.10"}) {
    for (const char* suffix : {":input", ".self_attn", ".self_attn.q_proj:input", ".mlp", ".mlp:topk_indices", ""}) {
      out.push_back({text(layer, suffix)});
    }
  }
  out.push_back({"lm_head"});
  return out;
}

void select_points(std::string_view patterns) {
  static const std::vector<ProbePoint> all = points();
  plan::select_points(split(patterns, ','), std::span(all).first(all.size() - 1), all, "extract-all");
}

}  // namespace

void options(std::string_view bytes) {
  if (bytes.empty() || bytes.size() > 4096) return;
  const std::string_view given = bytes.substr(1);
  const Prompts prompts = {.input_ids = {}, .cu_seqlens = {0, 5, 6, 9}, .texts = {}};
  expect_answer([&] {
    switch (bytes.front()) {
      case 'l':  // --layers
        plan::parse_layers(given, 30);
        break;
      case 't':  // --tokens
        plan::select_rows(plan::parse_tokens(given), prompts);
        break;
      case 'c':  // --capture, and --points of compare
        select_points(given);
        break;
      case 'r':  // --random-tokens, --random-hidden-states
        runtime::parse_random_shape(given, "--random-tokens");
        break;
      case 'n':  // --shard
        runtime::parse_shard(given);
        break;
      case 's':  // a size
        parse_bytes(given, "--pinned-memory");
        break;
      case 'd':  // --device-map; what a file holds is JSON, too
        if (!given.starts_with("@")) placement::parse_device_map(given);
        break;
      case 'm':  // --max-memory
        placement::parse_max_memory(given);
        break;
      case 'g':  // --gpus
        placement::parse_gpus(given);
        break;
      case 'y':  // --test-type
        plan::parse_test_type(given);
        break;
      default:
        break;
    }
  });
}

}  // namespace layerprobe::fuzz
