#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/prompts.h"
#include "model/config.h"
#include "runtime/shard.h"

namespace layerprobe::runtime {

/// The input options of a run, as typed. Exactly one kind is given.
struct InputOptions {
  std::vector<std::string> prompts = {};  // --prompt, each a prompt
  std::string prompts_file = {};          // --prompts: .txt or .jsonl
  std::string input_ids_file = {};        // --input-ids: .json or .npy
  std::string random_tokens = {};         // --random-tokens 64x1024[:seed]
  std::string hidden_states_file = {};    // --hidden-states FILE.h5
  std::string random_hidden_states = {};  // --random-hidden-states 1x128[:seed]

  /// How many of the kinds are given.
  int kinds() const;
  bool feeds_hidden_states() const { return !hidden_states_file.empty() || !random_hidden_states.empty(); }
};

/// "64x1024:7": prompts, tokens of each, and the seed (0 where it is left out).
struct RandomShape {
  std::int64_t num_prompts = 0;
  std::int64_t num_tokens = 0;
  std::uint64_t seed = 0;
};
/// Throws Error(usage) naming `option`.
RandomShape parse_random_shape(std::string_view text, const std::string& option);

/// Text to ids; only called for text.
using Encode = std::function<std::vector<std::int32_t>(std::string_view text)>;

/// What is given to a run: all prompts, or a shard's.
struct Input {
  Prompts prompts;
  std::optional<Part> part;
};

/// The prompts of every kind but hidden states; one kind is given. Of a shard, its own alone: the texts of others are
/// not encoded. Throws Error(input) naming file and line (or prompt) for an empty prompt, ids outside the vocabulary, a
/// file that is not what its name says.
Input read_prompts(const InputOptions& options, const model::ModelConfig& config, const Encode& encode,
                   const std::optional<Shard>& shard = {});

/// Prompts [first, first + count) of `prompts`.
Prompts slice(const Prompts& prompts, std::int64_t first, std::int64_t count);

/// Prompts of a run that is fed hidden states of this shape: without ids.
Prompts prompts_without_ids(const RandomShape& shape);

}  // namespace layerprobe::runtime
