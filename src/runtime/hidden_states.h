#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>

#include "base/dtype.h"
#include "base/prompts.h"
#include "model/config.h"
#include "runtime/input.h"
#include "store/reader.h"

namespace layerprobe::runtime {

/// What single and multi feed to their first layer: rows of a captured file, or random ones.
class HiddenStates {
 public:
  /// `options` name one of the two. Throws Error(input) when the file cannot be read or holds not all tokens.
  HiddenStates(const InputOptions& options, const model::ModelConfig& config, const std::optional<Shard>& shard = {});

  /// The prompts they belong to, of a shard its own: the file's, or prompts without ids.
  const Prompts& prompts() const { return prompts_; }
  const std::optional<Part>& part() const { return part_; }

  /// What tells them from others, for --resume: the random shape and seed, or the file, its model, its run's start and
  /// some of its values.
  std::string identity() const;

  /// Throws Error(input), naming what the file has, unless it holds what enters `layer`: model.layers.K:input, else
  /// model.layers.{K-1}, else, for layer 0, model.embed_tokens; complete and of hidden_size.
  void check(std::int64_t layer) const;

  /// The rows [first_token, first_token + num_tokens) of prompts() that enter `layer`, converted to `dtype`, row-major:
  /// num_tokens * hidden_size * size_of(dtype) bytes.
  void read(std::int64_t layer, std::int64_t first_token, std::int64_t num_tokens, Dtype dtype,
            std::span<std::byte> out) const;

 private:
  std::size_t point_for(std::int64_t layer) const;

  std::int64_t hidden_size_;
  Prompts prompts_;
  std::optional<Part> part_;
  std::int64_t first_token_ = 0;  // of the whole input, where prompts_ begin
  std::optional<store::Reader> file_;
  RandomShape random_;
};

}  // namespace layerprobe::runtime
