#include <algorithm>
#include <array>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/pipeline.h"

namespace layerprobe::tokenizer {
namespace {

// The patterns of the models' own tokenizer.json. What a name of `pre` stands for is defined by llama.cpp
// (llm_tokenizer_bpe and llama_vocab::impl::load in src/llama-vocab.cpp), whose own patterns are these, rewritten for
// its engine. transformers 5.23 has the same table (integrations/gguf/gguf_tokenizer_mapping.py) but for the digits of
// smollm and its like, which it forgets.
constexpr std::string_view kDigit = R"(\p{N})";
constexpr std::string_view kSpaceAndLetters = R"(\s?\p{L}+)";
constexpr std::string_view kSpaceAndPunctuation = R"(\s?\p{P}+)";
constexpr std::string_view kLlama3 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kQwen2 =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kO200k =
    R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?)"
    R"(|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kTekken = R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+)"
                                     R"(|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*)"
                                     R"(|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepseekDigits = R"(\p{N}{1,3})";
constexpr std::string_view kDeepseekHanAndKana = "[\u4e00-\u9fa5\u3040-\u309f\u30a0-\u30ff]+";
constexpr std::string_view kDeepseekRest =
    R"([!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+)"
    R"(| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)";
constexpr std::string_view kDeepseekNewline = R"([\r\n])";
constexpr std::string_view kDeepseekHanAndHangul = "[\u4e00-\u9fa5\u0800-\u4e00\uac00-\ud7ff]+";
struct Known {
  std::string_view pre;                      // tokenizer.ggml.pre
  std::array<std::string_view, 5> patterns;  // each isolates its matches, one after the other; the first "" ends them
  bool individual_digits = false;            // Digits comes before them
  bool ignore_merges = false;
  bool add_bos = false;  // where the file does not say
  bool nfc = false;
};

constexpr Known kKnown[] = {
    {.pre = "default", .patterns = {kGpt2Pattern}},  // what transformers takes for any name it does not know
    {.pre = "gpt-2", .patterns = {kGpt2Pattern}},
    {.pre = "phi-2", .patterns = {kGpt2Pattern}},
    {.pre = "smollm", .patterns = {kGpt2Pattern}, .individual_digits = true},
    {.pre = "starcoder", .patterns = {kGpt2Pattern}, .individual_digits = true},
    {.pre = "refact", .patterns = {kGpt2Pattern}, .individual_digits = true},
    {.pre = "command-r", .patterns = {kGpt2Pattern}, .individual_digits = true},
    {.pre = "llama-bpe", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
    {.pre = "llama3", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
    {.pre = "llama-v3", .patterns = {kLlama3}, .ignore_merges = true, .add_bos = true},
    {.pre = "dbrx", .patterns = {kLlama3}},
    {.pre = "smaug-bpe", .patterns = {kLlama3}},
    {.pre = "tekken", .patterns = {kTekken}, .ignore_merges = true, .add_bos = true},
    {.pre = "qwen2", .patterns = {kQwen2}, .nfc = true},  // NFC: models/qwen2/tokenization_qwen2.py in transformers
    {.pre = "deepseek-r1-qwen", .patterns = {kQwen2}, .nfc = true},
    {.pre = "gpt-4o", .patterns = {kO200k}},
    {.pre = "llama4", .patterns = {kO200k}},
    {.pre = "minimax-m2", .patterns = {kO200k}},
    {.pre = "deepseek-v3", .patterns = {kDeepseekDigits, kDeepseekHanAndKana, kDeepseekRest}},
    {.pre = "deepseek-coder",
     .patterns = {kDeepseekNewline, kSpaceAndLetters, kSpaceAndPunctuation, kDeepseekHanAndHangul, kDigit}},
};

constexpr std::int32_t kControl = 3, kUserDefined = 4;  // of tokenizer.ggml.token_type

Error refused(const std::string& where, std::string what, std::string fix) {
  return Error({.kind = ErrorKind::input, .where = where, .what = std::move(what), .fix = std::move(fix)});
}

const Known& known_of(const GgufVocabulary& vocabulary, const std::string& where) {
  const char* const fix = "give token ids (--input-ids) instead of text";
  if (vocabulary.model != "gpt2") {
    throw refused(
        where,
        text("tokenizer.ggml.model is \"", vocabulary.model, "\"",
             vocabulary.model == "llama" ? " (SentencePiece)" : "", "; only \"gpt2\" (byte-level BPE) is supported"),
        fix);
  }
  const std::string_view pre = vocabulary.pre.empty() ? "default" : std::string_view(vocabulary.pre);
  const auto* found =
      std::find_if(std::begin(kKnown), std::end(kKnown), [&](const Known& known) { return known.pre == pre; });
  if (found != std::end(kKnown)) return *found;
  std::vector<std::string> names;
  for (const Known& known : kKnown) names.emplace_back(known.pre);
  throw refused(where, text("tokenizer.ggml.pre is \"", pre, "\"; known are ", join(names, ", ")), fix);
}

}  // namespace

Pipeline pipeline_of(const GgufVocabulary& vocabulary, const std::string& where) {
  const Known& known = known_of(vocabulary, where);
  const auto damaged = [&](std::string what) { return refused(where, std::move(what), "fetch the file again"); };
  const std::size_t num_tokens = vocabulary.tokens.size();
  if (num_tokens > INT32_MAX) throw damaged(text("tokenizer.ggml.tokens has ", num_tokens, " entries"));
  if (vocabulary.token_types.size() != num_tokens) {
    throw damaged(text("tokenizer.ggml.token_type has ", vocabulary.token_types.size(),
                       " entries, tokenizer.ggml.tokens ", num_tokens));
  }

  Bpe::Model model;
  model.ignore_merges = known.ignore_merges;
  std::vector<AddedTokenEntry> added_tokens;
  for (std::size_t i = 0; i < num_tokens; ++i) {
    const auto id = static_cast<std::int32_t>(i);
    model.vocabulary.emplace_back(vocabulary.tokens[i], id);
    if (vocabulary.token_types[i] == kControl || vocabulary.token_types[i] == kUserDefined) {
      added_tokens.push_back({.content = vocabulary.tokens[i], .id = id});
    }
  }
  for (std::size_t i = 0; i < vocabulary.merges.size(); ++i) {
    std::vector<std::string> halves = split(vocabulary.merges[i], ' ');
    if (halves.size() != 2) {
      throw damaged(text("tokenizer.ggml.merges[", i, "] is \"", vocabulary.merges[i], "\", not two tokens"));
    }
    model.merges.emplace_back(std::move(halves[0]), std::move(halves[1]));
  }
  std::vector<Splitter> splitters;
  if (known.individual_digits) splitters.emplace_back(Digits{.individual_digits = true});
  for (const std::string_view pattern : known.patterns) {
    if (pattern.empty()) break;
    splitters.emplace_back(Split{Pattern(pattern, where), SplitBehavior::isolated, /*invert=*/false});
  }

  Pipeline pipeline = make_pipeline(added_tokens, known.nfc, std::move(splitters), model, where);
  if (vocabulary.add_bos_token.value_or(known.add_bos)) {
    const std::int64_t bos = vocabulary.bos_token_id;
    if (bos < 0 || bos >= static_cast<std::int64_t>(num_tokens)) {
      throw damaged(text("tokenizer.ggml.bos_token_id is ", bos, " where a BOS is to be added; there are ", num_tokens,
                         " tokens"));
    }
    pipeline.before.push_back(static_cast<std::int32_t>(bos));
  }
  return pipeline;
}

}  // namespace layerprobe::tokenizer
