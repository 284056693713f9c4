#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "store/writer.h"

namespace layerprobe::runtime {

/// --shard 2/4: part `index`, from 0, of `count` of a run's prompts. Parts are unbroken and have as many prompts as
/// each other, or one more.
struct Shard {
  std::int64_t index = 0;
  std::int64_t count = 1;

  std::int64_t begin(std::int64_t num_prompts) const { return begin_of(index, num_prompts); }
  std::int64_t end(std::int64_t num_prompts) const { return begin_of(index + 1, num_prompts); }

 private:
  std::int64_t begin_of(std::int64_t part, std::int64_t num_prompts) const {
    return num_prompts / count * part + num_prompts % count * part / count;
  }
};

/// At most this many, so that no product overflows.
inline constexpr std::int64_t kMaxShards = 1'000'000;

/// Throws Error(usage).
Shard parse_shard(std::string_view text);

/// Which prompts of which input a run has.
struct Part {
  Shard shard;
  std::int64_t first_prompt = 0;  // of the whole input
  std::int64_t num_prompts = 0;
  std::int64_t whole_prompts = 0;
  std::string whole_input;  // SHA-256 of all prompts as they are given, in hex

  /// For the file, so that shards can be told apart and put together: "shard", "shard_first_prompt", ...
  store::Attributes attributes() const;
};

/// The attributes of Part by name, for those who read them back.
inline constexpr const char* kShard = "shard";
inline constexpr const char* kShardFirstPrompt = "shard_first_prompt";
inline constexpr const char* kShardWholePrompts = "shard_whole_prompts";
inline constexpr const char* kShardWholeInput = "shard_whole_input";

/// Throws Error(usage) when there are fewer prompts than shards: one would be empty.
Part part_of(const Shard& shard, std::int64_t whole_prompts, std::string whole_input);

/// "2/4"
std::string text_of(const Shard& shard);

}  // namespace layerprobe::runtime
