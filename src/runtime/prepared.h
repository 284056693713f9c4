#pragma once

#include <optional>
#include <string>

#include "base/prompts.h"
#include "model/config.h"
#include "plan/plan.h"
#include "runtime/hidden_states.h"
#include "runtime/session.h"
#include "tokenizer/tokenizer.h"
#include "weights/checkpoint.h"

namespace layerprobe::runtime {

/// The checkpoint's own, from its folder or from the GGUF. Throws Error(input) when there is none that can be used.
tokenizer::Tokenizer open_tokenizer(const weights::Checkpoint& checkpoint);

/// All that a run follows from but its device: model, input and plan, held against each other before any weight is
/// read.
class Prepared {
 public:
  /// Throws Error for whatever in the options, the model or the input keeps the run from running.
  /// Where `options` leave tokens_per_batch to the device, it is 0 in the plan.
  Prepared(const RunOptions& options, const Watch& watch);

  /// Where the captures go: "none", or a path.
  std::string output(const RunOptions& options) const;

  /// nullptr where the checkpoint has none that can be used. Opened at its first use, so that runs without text need
  /// none.
  const tokenizer::Tokenizer* tokenizer_if_any();

  const weights::Checkpoint checkpoint;
  const model::ModelConfig config;
  std::optional<HiddenStates> hidden_states;  // where these are fed to the layers instead of prompts
  Prompts prompts;                            // of a shard, its own
  std::optional<Part> part;
  plan::Plan plan;

 private:
  std::string config_name() const;
  const tokenizer::Tokenizer& tokenizer();
  void warn_unused(const Watch& watch) const;
  void warn_long_prompts(const Watch& watch) const;

  std::optional<tokenizer::Tokenizer> tokenizer_;
  bool has_no_tokenizer_ = false;
};

}  // namespace layerprobe::runtime
