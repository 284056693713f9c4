#include "runtime/input.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/sha256.h"
#include "base/text.h"
#include "runtime/npy.h"
#include "runtime/random.h"

namespace layerprobe::runtime {
namespace {

constexpr const char* kFewerFix = "give fewer prompts at once, or shorter ones";
constexpr std::uint64_t kMaxPromptFileBytes = std::uint64_t{16} << 30;
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 30;  // ids and positions of so many take 8 GiB

/// Collects prompts, each checked. Texts are encoded at the end: those of other shards need not be.
class Collector {
 public:
  /// `place`: what stands before a prompt's number in a message, as in "p.txt: line ".
  Collector(std::string place, const model::ModelConfig& config, const Encode& encode, std::optional<Shard> shard)
      : place_(std::move(place)), config_(config), encode_(encode), shard_(shard) {
    given_.cu_seqlens.push_back(0);
  }

  std::string where(std::size_t number) const { return text(place_, number); }

  void add_text(std::string_view prompt, std::size_t number) {
    if (prompt.empty()) throw bad_input(where(number), "is empty", "give every prompt at least one character");
    if (!is_utf8(prompt)) {
      throw bad_input(where(number), "is not UTF-8", "convert it, as with: iconv -f UTF-16 -t UTF-8 (or -f LATIN1)");
    }
    given_.texts.resize(static_cast<std::size_t>(given_.num_prompts()));
    given_.texts.emplace_back(prompt);
    numbers_.push_back(number);
    given_.cu_seqlens.push_back(given_.num_tokens());
  }

  void add_id(std::int64_t id, std::size_t number) {
    if (id < 0 || id >= config_.vocab_size) {
      throw bad_input(where(number), text("id ", id, " is outside the vocabulary of ", config_.vocab_size),
                      "check that the ids are of this model's tokenizer");
    }
    given_.input_ids.push_back(static_cast<std::int32_t>(id));
  }

  void add_ids(const Json& ids, std::size_t number) {
    const auto refuse = [&](const std::string& what) { throw bad_input(where(number), what, kIdsFix); };
    if (!ids.is_array()) refuse(text("is ", ids.kind(), " where a list of ids is expected"));
    for (const Json& id : ids.items()) {
      if (!id.is_integer()) refuse(text("holds ", id.kind(), " where an id is expected"));
      add_id(id.integer(), number);
    }
    end_ids(number);
  }

  void end_ids(std::size_t number) {
    numbers_.push_back(number);
    end_prompt(given_, number);
  }

  Input finish(const std::string& whole) {
    if (given_.num_prompts() == 0) throw bad_input(whole, "holds no prompt", "give at least one prompt");
    if (!given_.texts.empty()) given_.texts.resize(static_cast<std::size_t>(given_.num_prompts()));
    if (!shard_) return {.prompts = given_.texts.empty() ? std::move(given_) : encoded(), .part = {}};
    Part part = part_of(*shard_, given_.num_prompts(), given_hash());
    given_ = slice(given_, part.first_prompt, part.num_prompts);
    numbers_.erase(numbers_.begin(), numbers_.begin() + part.first_prompt);
    return {.prompts = given_.texts.empty() ? std::move(given_) : encoded(), .part = std::move(part)};
  }

 private:
  static constexpr const char* kIdsFix = "write a list of ids a prompt, for instance [[1, 5], [7]]";

  void end_prompt(Prompts& prompts, std::size_t number) const {
    const auto tokens = static_cast<std::int64_t>(prompts.input_ids.size());
    if (tokens == prompts.cu_seqlens.back()) {
      throw bad_input(where(number), "is empty", "give every prompt at least one token");
    }
    if (tokens > kMaxTokens) {
      throw bad_input(where(number), text("token ", tokens, " of the input; at most ", kMaxTokens, " are taken"),
                      kFewerFix);
    }
    prompts.cu_seqlens.push_back(tokens);
  }

  /// The given prompts with the ids of their texts.
  Prompts encoded() {
    Prompts prompts;
    prompts.cu_seqlens.push_back(0);
    for (std::size_t p = 0; p < given_.texts.size(); ++p) {
      const auto ids = given_.input_ids.begin();
      if (given_.texts[p].empty()) {
        prompts.input_ids.insert(prompts.input_ids.end(), ids + given_.cu_seqlens[p], ids + given_.cu_seqlens[p + 1]);
      } else {
        const std::vector<std::int32_t> of_text = encode_(given_.texts[p]);
        for (const std::int32_t id : of_text) {
          if (id < config_.vocab_size) continue;
          throw bad_input(
              where(numbers_[p]),
              text("the tokenizer makes the id ", id, " of it, outside the model's vocabulary of ", config_.vocab_size),
              "fetch weights, config.json and tokenizer.json from one revision");
        }
        prompts.input_ids.insert(prompts.input_ids.end(), of_text.begin(), of_text.end());
      }
      end_prompt(prompts, numbers_[p]);
    }
    prompts.texts = std::move(given_.texts);
    return prompts;
  }

  /// Of all prompts as they are given, each with its kind and length before it.
  std::string given_hash() const {
    Sha256 hash;
    for (std::size_t p = 0; p < numbers_.size(); ++p) {
      if (!given_.texts.empty() && !given_.texts[p].empty()) {
        hash.add(text("text ", given_.texts[p].size(), ":"));
        hash.add(given_.texts[p]);
        continue;
      }
      const auto first = static_cast<std::size_t>(given_.cu_seqlens[p]);
      const std::size_t count = static_cast<std::size_t>(given_.cu_seqlens[p + 1]) - first;
      hash.add(text("ids ", count, ":"));
      hash.add({reinterpret_cast<const char*>(given_.input_ids.data() + first), count * sizeof(std::int32_t)});
    }
    return hash.hex();
  }

  const std::string place_;
  const model::ModelConfig& config_;
  const Encode& encode_;
  const std::optional<Shard> shard_;
  Prompts given_;                     // those that are text have no ids yet
  std::vector<std::size_t> numbers_;  // of each prompt, for messages
};

/// Takes the first line, without its end, off `contents`.
std::string_view take_line(std::string_view& contents) {
  std::string_view line = contents.substr(0, contents.find('\n'));
  contents.remove_prefix(std::min(line.size() + 1, contents.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

Input from_prompts_file(const std::string& path, Collector collector) {
  const bool is_jsonl = path.ends_with(".jsonl");
  if (!is_jsonl && !path.ends_with(".txt")) {
    throw bad_input(path, "is neither .txt nor .jsonl", "name a .txt file, a prompt a line, or a .jsonl file");
  }
  const std::string contents = read_text_file(path, kMaxPromptFileBytes);
  std::string_view rest = contents;
  if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = take_line(rest);
    if (!is_jsonl) {
      collector.add_text(line, number);
      continue;
    }
    if (trimmed(line).empty()) continue;
    const std::string where = collector.where(number);
    const Json record = Json::parse(line, where);
    const Json* prompt = record.find("text");
    const Json* ids = record.find("input_ids");
    if ((prompt == nullptr) == (ids == nullptr)) {
      throw bad_input(where, "has not exactly one of \"text\" and \"input_ids\"", "give each record one of them");
    }
    if (ids != nullptr) {
      collector.add_ids(*ids, number);
    } else if (!prompt->is_string()) {
      throw bad_input(where, text("\"text\" is ", prompt->kind()), "make it a string");
    } else {
      collector.add_text(prompt->string(), number);
    }
  }
  return collector.finish(path);
}

Input from_npy(const std::string& path, Collector collector) {
  const IntegerMatrix matrix = read_npy_integers(path, kMaxTokens);
  for (std::size_t row = 0; std::cmp_less(row, matrix.rows); ++row) {
    const std::size_t first = row * static_cast<std::size_t>(matrix.columns);
    for (std::size_t column = 0; std::cmp_less(column, matrix.columns); ++column) {
      collector.add_id(matrix.values[first + column], row);
    }
    collector.end_ids(row);
  }
  return collector.finish(path);
}

Input from_json(const std::string& path, Collector collector) {
  const Json all = Json::parse(read_text_file(path), path);
  if (!all.is_array()) throw bad_input(path, text("is ", all.kind()), "write lists of ids, for instance [[1, 5], [7]]");
  for (std::size_t i = 0; i < all.items().size(); ++i) collector.add_ids(all.items()[i], i);
  return collector.finish(path);
}

Input from_random_tokens(const std::string& given, const model::ModelConfig& config,
                         const std::optional<Shard>& shard) {
  const RandomShape shape = parse_random_shape(given, "--random-tokens");
  Prompts prompts = prompts_without_ids(shape);
  prompts.input_ids.resize(static_cast<std::size_t>(prompts.num_tokens()));
  random_ids(shape.seed, config.vocab_size, prompts.input_ids);
  if (!shard) return {.prompts = std::move(prompts), .part = {}};
  Sha256 hash;
  hash.add(
      text("random tokens ", shape.num_prompts, "x", shape.num_tokens, ":", shape.seed, " below ", config.vocab_size));
  Part part = part_of(*shard, shape.num_prompts, hash.hex());
  return {.prompts = slice(prompts, part.first_prompt, part.num_prompts), .part = std::move(part)};
}

}  // namespace

RandomShape parse_random_shape(std::string_view given, const std::string& option) {
  const auto number = [](std::string_view part, auto& out) {
    const auto [end, problem] = std::from_chars(part.data(), part.data() + part.size(), out);
    return problem == std::errc{} && end == part.data() + part.size();
  };
  RandomShape shape;
  const std::size_t colon = given.find(':');
  const std::string_view sizes = given.substr(0, colon);
  const std::size_t times = sizes.find('x');
  const bool good = times != std::string_view::npos && number(sizes.substr(0, times), shape.num_prompts) &&
                    number(sizes.substr(times + 1), shape.num_tokens) &&
                    (colon == std::string_view::npos || number(given.substr(colon + 1), shape.seed)) &&
                    shape.num_prompts > 0 && shape.num_tokens > 0;
  if (good && shape.num_prompts > kMaxTokens / shape.num_tokens) {
    throw Error(
        {.kind = ErrorKind::usage,
         .where = option,
         .what = text("\"", given, "\" is more than ", kMaxTokens, " tokens, which are the most that are taken"),
         .fix = kFewerFix});
  }
  if (good) return shape;
  throw Error({.kind = ErrorKind::usage,
               .where = option,
               .what = text("\"", given, "\" is no PROMPTSxTOKENS[:SEED]"),
               .fix = text("write for instance ", option, " 64x1024 or ", option, " 64x1024:7")});
}

int InputOptions::kinds() const {
  return !prompts.empty() + !prompts_file.empty() + !input_ids_file.empty() + !random_tokens.empty() +
         !hidden_states_file.empty() + !random_hidden_states.empty();
}

Input read_prompts(const InputOptions& options, const model::ModelConfig& config, const Encode& encode,
                   const std::optional<Shard>& shard) {
  const auto collector = [&](std::string place) { return Collector(std::move(place), config, encode, shard); };
  if (const std::string& path = options.prompts_file; !path.empty()) {
    return from_prompts_file(path, collector(path + ": line "));
  }
  if (const std::string& path = options.input_ids_file; !path.empty()) {
    if (path.ends_with(".npy")) return from_npy(path, collector(path + ": row "));
    if (path.ends_with(".json")) return from_json(path, collector(path + ": prompt "));
    throw bad_input(path, "is neither .json nor .npy", "name a .json file with lists of ids, or a .npy file");
  }
  if (!options.random_tokens.empty()) return from_random_tokens(options.random_tokens, config, shard);
  Collector prompts = collector("--prompt ");
  for (std::size_t i = 0; i < options.prompts.size(); ++i) prompts.add_text(options.prompts[i], i + 1);
  return prompts.finish("--prompt");
}

Prompts slice(const Prompts& prompts, std::int64_t first, std::int64_t count) {
  const auto part = [](const auto& values, std::int64_t begin, std::int64_t end) {
    return std::vector(values.begin() + begin, values.begin() + end);
  };
  Prompts out;
  out.cu_seqlens = part(prompts.cu_seqlens, first, first + count + 1);
  const std::int64_t begin = out.cu_seqlens.front(), end = out.cu_seqlens.back();
  for (std::int64_t& bound : out.cu_seqlens) bound -= begin;
  if (!prompts.input_ids.empty()) out.input_ids = part(prompts.input_ids, begin, end);
  if (!prompts.texts.empty()) out.texts = part(prompts.texts, first, first + count);
  return out;
}

Prompts prompts_without_ids(const RandomShape& shape) {
  Prompts prompts;
  for (std::int64_t prompt = 0; prompt <= shape.num_prompts; ++prompt) {
    prompts.cu_seqlens.push_back(prompt * shape.num_tokens);
  }
  return prompts;
}

}  // namespace layerprobe::runtime
