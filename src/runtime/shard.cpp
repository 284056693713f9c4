#include "runtime/shard.h"

#include <charconv>
#include <utility>

#include "base/error.h"
#include "base/text.h"

namespace layerprobe::runtime {

Shard parse_shard(std::string_view given) {
  const auto number = [](std::string_view part, std::int64_t& out) {
    const auto [end, problem] = std::from_chars(part.data(), part.data() + part.size(), out);
    return problem == std::errc{} && end == part.data() + part.size();
  };
  Shard shard;
  const std::size_t slash = given.find('/');
  const bool good = slash != std::string_view::npos && number(given.substr(0, slash), shard.index) &&
                    number(given.substr(slash + 1), shard.count) && shard.count <= kMaxShards && shard.index >= 0 &&
                    shard.index < shard.count;
  if (good) return shard;
  throw Error(
      {.kind = ErrorKind::usage,
       .where = "--shard",
       .what = text("\"", given, "\" is no INDEX/COUNT with an index from 0 to COUNT - 1 and a count of at most ",
                    kMaxShards),
       .fix = "write --shard 0/4 for the first of four parts and --shard 3/4 for the last"});
}

std::string text_of(const Shard& shard) { return text(shard.index, "/", shard.count); }

Part part_of(const Shard& shard, std::int64_t whole_prompts, std::string whole_input) {
  if (whole_prompts < shard.count) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "--shard " + text_of(shard),
                 .what = text("the input has ", whole_prompts, whole_prompts == 1 ? " prompt" : " prompts",
                              ", which cannot make ", shard.count, " shards"),
                 .fix = text("use at most ", whole_prompts, whole_prompts == 1 ? " shard" : " shards")});
  }
  const std::int64_t first = shard.begin(whole_prompts);
  return {.shard = shard,
          .first_prompt = first,
          .num_prompts = shard.end(whole_prompts) - first,
          .whole_prompts = whole_prompts,
          .whole_input = std::move(whole_input)};
}

store::Attributes Part::attributes() const {
  return {{kShard, text_of(shard)},
          {kShardFirstPrompt, first_prompt},
          {kShardWholePrompts, whole_prompts},
          {kShardWholeInput, whole_input}};
}

}  // namespace layerprobe::runtime
