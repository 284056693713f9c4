#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/prompts.h"
#include "model/config.h"
#include "plan/selection.h"
#include "store/writer.h"

namespace layerprobe::plan {

enum class TestType { single, multi, full, extract_all };

/// "single", "multi", "full", "extract-all"
std::string_view name_of(TestType type);
/// Throws Error(usage) naming --test-type.
TestType parse_test_type(std::string_view name);

/// What the options ask for, before it is held against a model.
struct Request {
  TestType test_type = TestType::extract_all;
  std::string layers = {};                // as typed; empty: the test type's default
  std::vector<std::string> capture = {};  // patterns; empty: the test type's own points
  std::string tokens = {};                // as typed; empty: the test type's default
  std::int64_t tokens_per_batch = 512;    // at most; a longer prompt is a batch of its own
  bool has_prompts = true;                // false: hidden states are fed to the layers
};

/// What a run does. All of it follows from headers and options: no weight is read for it.
struct Plan {
  TestType test_type = TestType::extract_all;
  Dtype dtype = Dtype::bf16;
  std::vector<std::int64_t> layers;  // those that run, rising; of `single` each by itself
  bool runs_embedding = false;
  bool runs_norm = false;
  bool runs_lm_head = false;
  bool keeps_mean = false;  // rows are means over a prompt's tokens, f32
  std::vector<store::Layout::Point> points;
  CapturedRows rows;
  std::int64_t tokens_per_batch = 0;
  std::int64_t top_k = 0;

  std::optional<std::size_t> find(std::string_view name) const;     // index into points
  std::optional<std::size_t> find_block(std::int64_t layer) const;  // of what leaves the layer
};

/// Throws Error(usage) for layers, points and tokens that the model or the test type does not have.
Plan make_plan(const model::ModelConfig& config, Dtype dtype, const Prompts& prompts, const Request& request);

}  // namespace layerprobe::plan
