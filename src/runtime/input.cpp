#include "runtime/input.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/text.h"
#include "runtime/npy.h"
#include "runtime/random.h"

namespace layerprobe::runtime {
namespace {

constexpr const char* kFewerFix = "give fewer prompts at once, or shorter ones";
constexpr std::uint64_t kMaxPromptFileBytes = std::uint64_t{16} << 30;
constexpr std::int64_t kMaxTokens = std::int64_t{1} << 30;  // ids and positions of so many take 8 GiB

Error bad_input(std::string where, std::string what, std::string fix) {
  return Error({.kind = ErrorKind::input, .where = std::move(where), .what = std::move(what), .fix = std::move(fix)});
}

/// Collects prompts, each checked.
class Collector {
 public:
  Collector(const model::ModelConfig& config, const Encode& encode) : config_(config), encode_(encode) {
    prompts_.cu_seqlens.push_back(0);
  }

  void add_text(std::string_view prompt, const std::string& where) {
    if (prompt.empty()) throw bad_input(where, "is empty", "give every prompt at least one character");
    const std::vector<std::int32_t> ids = encode_(prompt);
    prompts_.input_ids.insert(prompts_.input_ids.end(), ids.begin(), ids.end());
    end_prompt(where);
    prompts_.texts.resize(static_cast<std::size_t>(prompts_.num_prompts()));
    prompts_.texts.back() = prompt;
    has_text_ = true;
  }

  void add_id(std::int64_t id, const std::string& where) {
    if (id < 0 || id >= config_.vocab_size) {
      throw bad_input(where, text("id ", id, " is outside the vocabulary of ", config_.vocab_size),
                      "check that the ids are of this model's tokenizer");
    }
    prompts_.input_ids.push_back(static_cast<std::int32_t>(id));
  }

  void add_ids(const Json& ids, const std::string& where) {
    if (!ids.is_array()) throw bad_input(where, text("is ", ids.kind(), " where a list of ids is expected"), kIdsFix);
    for (const Json& id : ids.items()) {
      if (!id.is_integer()) throw bad_input(where, text("holds ", id.kind(), " where an id is expected"), kIdsFix);
      add_id(id.integer(), where);
    }
    end_prompt(where);
  }

  void end_prompt(const std::string& where) {
    const auto tokens = static_cast<std::int64_t>(prompts_.input_ids.size());
    if (tokens == prompts_.cu_seqlens.back()) {
      throw bad_input(where, "is empty", "give every prompt at least one token");
    }
    if (tokens > kMaxTokens) {
      throw bad_input(where, text("token ", tokens, " of the input; at most ", kMaxTokens, " are taken"), kFewerFix);
    }
    prompts_.cu_seqlens.push_back(tokens);
  }

  Prompts finish(const std::string& where) {
    if (prompts_.num_prompts() == 0) throw bad_input(where, "holds no prompt", "give at least one prompt");
    if (has_text_) prompts_.texts.resize(static_cast<std::size_t>(prompts_.num_prompts()));
    return std::move(prompts_);
  }

 private:
  static constexpr const char* kIdsFix = "write a list of ids a prompt, for instance [[1, 5], [7]]";

  const model::ModelConfig& config_;
  const Encode& encode_;
  Prompts prompts_;
  bool has_text_ = false;
};

/// Takes the first line, without its end, off `contents`.
std::string_view take_line(std::string_view& contents) {
  std::string_view line = contents.substr(0, contents.find('\n'));
  contents.remove_prefix(std::min(line.size() + 1, contents.size()));
  if (line.ends_with('\r')) line.remove_suffix(1);
  return line;
}

Prompts from_prompts_file(const std::string& path, Collector collector) {
  const bool is_jsonl = path.ends_with(".jsonl");
  if (!is_jsonl && !path.ends_with(".txt")) {
    throw bad_input(path, "is neither .txt nor .jsonl", "name a .txt file, a prompt a line, or a .jsonl file");
  }
  const std::string contents = read_text_file(path, kMaxPromptFileBytes);
  std::string_view rest = contents;
  if (rest.starts_with("\xef\xbb\xbf")) rest.remove_prefix(3);
  for (std::size_t number = 1; !rest.empty(); ++number) {
    const std::string_view line = take_line(rest);
    const std::string where = text(path, ": line ", number);
    if (!is_jsonl) {
      collector.add_text(line, where);
      continue;
    }
    if (trimmed(line).empty()) continue;
    const Json record = Json::parse(line, where);
    const Json* prompt = record.find("text");
    const Json* ids = record.find("input_ids");
    if ((prompt == nullptr) == (ids == nullptr)) {
      throw bad_input(where, "has not exactly one of \"text\" and \"input_ids\"", "give each record one of them");
    }
    if (ids != nullptr) {
      collector.add_ids(*ids, where);
    } else if (!prompt->is_string()) {
      throw bad_input(where, text("\"text\" is ", prompt->kind()), "make it a string");
    } else {
      collector.add_text(prompt->string(), where);
    }
  }
  return collector.finish(path);
}

Prompts from_ids_file(const std::string& path, Collector collector) {
  if (path.ends_with(".npy")) {
    const IntegerMatrix matrix = read_npy_integers(path, kMaxTokens);
    for (std::int64_t row = 0; row < matrix.rows; ++row) {
      const std::string where = text(path, ": row ", row);
      for (std::int64_t column = 0; column < matrix.columns; ++column) {
        collector.add_id(matrix.values[static_cast<std::size_t>(row * matrix.columns + column)], where);
      }
      collector.end_prompt(where);
    }
    return collector.finish(path);
  }
  if (!path.ends_with(".json")) {
    throw bad_input(path, "is neither .json nor .npy", "name a .json file with lists of ids, or a .npy file");
  }
  const Json all = Json::parse(read_text_file(path), path);
  if (!all.is_array()) throw bad_input(path, text("is ", all.kind()), "write lists of ids, for instance [[1, 5], [7]]");
  for (std::size_t i = 0; i < all.items().size(); ++i) collector.add_ids(all.items()[i], text(path, ": prompt ", i));
  return collector.finish(path);
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

Prompts read_prompts(const InputOptions& options, const model::ModelConfig& config, const Encode& encode) {
  Collector collector(config, encode);
  if (!options.prompts_file.empty()) return from_prompts_file(options.prompts_file, std::move(collector));
  if (!options.input_ids_file.empty()) return from_ids_file(options.input_ids_file, std::move(collector));
  if (!options.random_tokens.empty()) {
    const RandomShape shape = parse_random_shape(options.random_tokens, "--random-tokens");
    Prompts prompts = prompts_without_ids(shape);
    prompts.input_ids.resize(static_cast<std::size_t>(prompts.num_tokens()));
    random_ids(shape.seed, config.vocab_size, prompts.input_ids);
    return prompts;
  }
  for (std::size_t i = 0; i < options.prompts.size(); ++i) {
    collector.add_text(options.prompts[i], text("--prompt ", i + 1));
  }
  return collector.finish("--prompt");
}

Prompts prompts_without_ids(const RandomShape& shape) {
  Prompts prompts;
  for (std::int64_t prompt = 0; prompt <= shape.num_prompts; ++prompt) {
    prompts.cu_seqlens.push_back(prompt * shape.num_tokens);
  }
  return prompts;
}

}  // namespace layerprobe::runtime
