#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/text.h"
#include "tokenizer/json_part.h"
#include "tokenizer/pipeline.h"

namespace layerprobe::tokenizer {
namespace {

constexpr int kMaxDepth = 10;              // of Sequence in Sequence
constexpr std::size_t kMaxSplitters = 64;  // each goes over the whole text, and a pattern takes 1.1 MB
constexpr std::size_t kMaxTemplate = 100;  // pieces of one template, and tokens around a text

std::int32_t token_id(const JsonPart& part, std::string_view name, std::int64_t value) {
  if (value < 0 || value > INT32_MAX) part.refuse(name, text("the token id ", value, ", which is not in [0, 2^31)"));
  return static_cast<std::int32_t>(value);
}

std::vector<AddedTokenEntry> read_added_tokens(const JsonPart& root) {
  std::vector<AddedTokenEntry> out;
  if (root.find("added_tokens") == nullptr) return out;
  for (const JsonPart& part : root.objects("added_tokens")) {
    part.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
    out.push_back({.content = part.string("content"),
                   .id = token_id(part, "id", part.integer("id")),
                   .single_word = part.boolean("single_word"),
                   .lstrip = part.boolean("lstrip"),
                   .rstrip = part.boolean("rstrip"),
                   .normalized = part.boolean("normalized")});
  }
  return out;
}

/// Does it normalise to form C? It does nothing otherwise.
bool read_normalizer(const JsonPart& part, int depth = 0) {
  const std::string& type = part.string("type");
  if (type == "NFC") {
    part.allow_only({"type"});
    return true;
  }
  if (type != "Sequence" || depth == kMaxDepth) {
    part.refuse("type", text("\"", type, "\"; known normalizers are NFC and Sequence"));
  }
  part.allow_only({"type", "normalizers"});
  bool nfc = false;
  for (const JsonPart& one : part.objects("normalizers")) nfc = read_normalizer(one, depth + 1) || nfc;
  return nfc;
}

Split read_split(const JsonPart& part) {
  static const std::pair<std::string_view, SplitBehavior> kBehaviors[] = {
      {"Isolated", SplitBehavior::isolated},
      {"Removed", SplitBehavior::removed},
      {"MergedWithPrevious", SplitBehavior::merged_with_previous},
      {"MergedWithNext", SplitBehavior::merged_with_next},
      {"Contiguous", SplitBehavior::contiguous}};
  part.allow_only({"type", "pattern", "behavior", "invert"});
  const JsonPart pattern = part.object("pattern");
  pattern.allow_only({"Regex", "String"});
  const bool is_string = pattern.find("String") != nullptr;
  const std::string& given = pattern.string(is_string ? "String" : "Regex");
  const std::string& behavior = part.string("behavior");
  const auto* found = std::find_if(std::begin(kBehaviors), std::end(kBehaviors),
                                   [&](const auto& known) { return known.first == behavior; });
  if (found == std::end(kBehaviors)) part.refuse("behavior", text("\"", behavior, "\", which is not known"));
  return {.pattern = Pattern(is_string ? literal_pattern(given) : given, pattern.where()),
          .behavior = found->second,
          .invert = part.boolean("invert")};
}

/// Appends the splitters. ByteLevel has to come once, and last: what follows it would see bytes, not characters.
void read_pre_tokenizer(const JsonPart& part, std::vector<Splitter>& splitters, bool& has_byte_level, int depth = 0) {
  const std::string& type = part.string("type");
  if (type == "Sequence" && depth < kMaxDepth) {
    part.allow_only({"type", "pretokenizers"});
    for (const JsonPart& one : part.objects("pretokenizers")) {
      read_pre_tokenizer(one, splitters, has_byte_level, depth + 1);
    }
    return;
  }
  if (has_byte_level) part.refuse("type", text("\"", type, "\" after ByteLevel, which must be the last"));
  if (splitters.size() >= kMaxSplitters) {
    part.refuse("type", text("the splitter after the first ", kMaxSplitters, "; no more are taken"));
  }
  if (type == "Split") {
    splitters.emplace_back(read_split(part));
  } else if (type == "Digits") {
    part.allow_only({"type", "individual_digits"});
    splitters.emplace_back(Digits{part.boolean("individual_digits")});
  } else if (type == "ByteLevel") {
    part.allow_only({"type", "add_prefix_space", "trim_offsets", "use_regex"});
    if (part.boolean("add_prefix_space")) splitters.emplace_back(PrefixSpace{});
    if (part.boolean("use_regex", true)) {
      splitters.emplace_back(Split{Pattern(kGpt2Pattern, part.where()), SplitBehavior::isolated, /*invert=*/false});
    }
    has_byte_level = true;
  } else {
    part.refuse("type", text("\"", type, "\"; known pre-tokenizers are Sequence, Split, Digits and ByteLevel"));
  }
}

std::pair<std::string, std::string> read_merge(const JsonPart& model, const Json& merge, std::size_t index) {
  if (merge.is_string()) {
    const std::vector<std::string> halves = split(merge.string(), ' ');
    if (halves.size() == 2) return {halves[0], halves[1]};
  } else if (merge.is_array()) {
    const Json::Array& halves = merge.items();
    if (halves.size() == 2 && halves[0].is_string() && halves[1].is_string()) {
      return {halves[0].string(), halves[1].string()};
    }
  }
  model.refuse(text("merges[", index, "]"), "neither \"a b\" nor [\"a\", \"b\"]");
}

Bpe::Model read_model(const JsonPart& part) {
  if (part.find("type") != nullptr && part.string("type") != "BPE") {  // files of old say no type
    part.refuse("type", text("\"", part.string("type"), "\"; only byte-level BPE is supported"));
  }
  part.allow_only({"type", "dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix", "fuse_unk",
                   "byte_fallback", "ignore_merges", "vocab", "merges"});
  if (const Json* dropout = part.find("dropout"); dropout && !(dropout->is_number() && dropout->number() == 0)) {
    part.refuse("dropout", "given: ids would be random");
  }
  for (const char* affix : {"continuing_subword_prefix", "end_of_word_suffix"}) {
    if (part.find(affix) != nullptr && !part.string(affix).empty()) {
      part.refuse(affix, "not empty; only byte-level BPE is supported");
    }
  }
  if (part.boolean("byte_fallback", false)) part.refuse("byte_fallback", "true; only byte-level BPE is supported");

  Bpe::Model model;
  const JsonPart vocabulary = part.object("vocab");
  for (const auto& [token, id] : part.find("vocab")->members()) {
    if (!id.is_integer()) vocabulary.refuse(token, text("of kind ", id.kind(), " where a token id is expected"));
    model.vocabulary.emplace_back(token, token_id(vocabulary, token, id.integer()));
  }
  const Json::Array& merges = part.array("merges");
  for (std::size_t i = 0; i < merges.size(); ++i) {
    if (merges[i].is_string() && merges[i].string().starts_with("#version")) continue;  // the head of a merges.txt
    model.merges.push_back(read_merge(part, merges[i], i));
  }
  if (part.find("unk_token") != nullptr) model.unk_token = part.string("unk_token");
  model.fuse_unk = part.boolean("fuse_unk", false);
  model.ignore_merges = part.boolean("ignore_merges", false);
  return model;
}

/// The ids that a template puts before and after the text's own, around what is there already.
void read_template(const JsonPart& part, Pipeline& pipeline) {
  part.allow_only({"type", "single", "pair", "special_tokens"});
  const JsonPart special_tokens = part.object("special_tokens");
  std::vector<std::int32_t> before, after;
  bool seen_text = false;
  if (const std::size_t pieces = part.array("single").size(); pieces > kMaxTemplate) {
    part.refuse("single", text("of ", pieces, " pieces; at most ", kMaxTemplate, " are taken"));
  }
  for (const JsonPart& piece : part.objects("single")) {
    piece.allow_only({"Sequence", "SpecialToken"});
    if (piece.find("Sequence") != nullptr) {
      if (seen_text || piece.object("Sequence").string("id") != "A") {
        piece.refuse("Sequence", "not the text once; a template has to hold it once");
      }
      seen_text = true;
      continue;
    }
    const JsonPart token = special_tokens.object(piece.object("SpecialToken").string("id"));
    for (const Json& id : token.array("ids")) {
      if (!id.is_integer()) token.refuse("ids", "not a list of token ids");
      (seen_text ? after : before).push_back(token_id(token, "ids", id.integer()));
      if (pipeline.before.size() + pipeline.after.size() + before.size() + after.size() > kMaxTemplate) {
        token.refuse("ids", text("of more than the ", kMaxTemplate, " tokens that may stand around a text"));
      }
    }
  }
  if (!seen_text) part.refuse("single", "without the text; a template has to hold it once");
  pipeline.before.insert(pipeline.before.begin(), before.begin(), before.end());
  pipeline.after.insert(pipeline.after.end(), after.begin(), after.end());
}

void read_post_processor(const JsonPart& part, Pipeline& pipeline, int depth = 0) {
  const std::string& type = part.string("type");
  if (type == "TemplateProcessing") {
    read_template(part, pipeline);
  } else if (type == "Sequence" && depth < kMaxDepth) {
    part.allow_only({"type", "processors"});
    for (const JsonPart& one : part.objects("processors")) read_post_processor(one, pipeline, depth + 1);
  } else if (type != "ByteLevel") {  // which only moves offsets
    part.refuse("type", text("\"", type, "\"; known post-processors are TemplateProcessing, Sequence and ByteLevel"));
  }
}

/// A token of tokenizer_config.json: a string, or an object with its content.
std::int32_t named_token(const JsonPart& config, std::string_view name, const Pipeline& pipeline) {
  const Json* given = config.find(name);
  if (given == nullptr) config.refuse(name, "missing where the file asks to add it");
  const std::string& content = given->is_string() ? given->string() : config.object(name).string("content");
  for (const auto& [id, token] : pipeline.text_of) {
    if (token == content) return id;
  }
  config.refuse(name, text("\"", content, "\", which is no token of tokenizer.json"));
}

/// BOS and EOS that tokenizer_config.json asks for, unless the post-processor adds them already. "false" takes nothing
/// away from what the post-processor adds.
void read_config(const JsonPart& config, Pipeline& pipeline) {
  if (config.find("add_bos_token") != nullptr && config.boolean("add_bos_token")) {
    const std::int32_t bos = named_token(config, "bos_token", pipeline);
    if (pipeline.before.empty() || pipeline.before.front() != bos) pipeline.before.insert(pipeline.before.begin(), bos);
  }
  if (config.find("add_eos_token") != nullptr && config.boolean("add_eos_token")) {
    const std::int32_t eos = named_token(config, "eos_token", pipeline);
    if (pipeline.after.empty() || pipeline.after.back() != eos) pipeline.after.push_back(eos);
  }
}

}  // namespace

Pipeline read_tokenizer_json(const std::filesystem::path& folder) {
  const std::filesystem::path path = folder / "tokenizer.json";
  const Json json = Json::parse(read_text_file(path), path.string());
  const JsonPart root(json, path.string());
  root.allow_only({"version", "truncation", "padding", "added_tokens", "normalizer", "pre_tokenizer", "post_processor",
                   "decoder", "model"});  // truncation and padding are the caller's business
  if (root.find("version") != nullptr && root.string("version") != "1.0") {
    root.refuse("version", text("\"", root.string("version"), "\"; 1.0 is known"));
  }
  const Bpe::Model model = read_model(root.object("model"));
  const bool nfc = root.find("normalizer") != nullptr && read_normalizer(root.object("normalizer"));
  std::vector<Splitter> splitters;
  bool has_byte_level = false;
  if (root.find("pre_tokenizer") != nullptr) {
    read_pre_tokenizer(root.object("pre_tokenizer"), splitters, has_byte_level);
  }
  if (!has_byte_level) root.refuse("pre_tokenizer", "without ByteLevel; only byte-level BPE is supported");
  if (root.find("decoder") != nullptr && root.object("decoder").string("type") != "ByteLevel") {
    root.object("decoder").refuse("type", text("\"", root.object("decoder").string("type"), "\"; ByteLevel is known"));
  }
  Pipeline pipeline = make_pipeline(read_added_tokens(root), nfc, std::move(splitters), model, path.string());
  if (root.find("post_processor") != nullptr) read_post_processor(root.object("post_processor"), pipeline);

  const std::filesystem::path config_path = folder / "tokenizer_config.json";
  if (std::filesystem::exists(config_path)) {
    const Json config = Json::parse(read_text_file(config_path), config_path.string());
    read_config(JsonPart(config, config_path.string()), pipeline);
  }
  return pipeline;
}

}  // namespace layerprobe::tokenizer
