#include "tokenizer/pipeline.h"

#include <algorithm>
#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

constexpr std::size_t kMaxAddedTokenBytes = 1000;         // looking for a token takes time in proportion to its length
constexpr std::size_t kMaxAddedTokensBytes = 10'000'000;  // of all; a byte takes up to 60 bytes of memory

}  // namespace

Pipeline make_pipeline(const std::vector<AddedTokenEntry>& added_tokens, bool nfc_first,
                       std::vector<Splitter> splitters, const Bpe::Model& model, const std::string& where) {
  const auto refused = [&](std::string what) {
    return Error({.kind = ErrorKind::input,
                  .where = where,
                  .what = std::move(what),
                  .fix = "the vocabulary is damaged; fetch the model again"});
  };
  std::unordered_map<std::string_view, std::int32_t> added_id_of;
  for (const AddedTokenEntry& entry : added_tokens) added_id_of[entry.content] = entry.id;
  std::unordered_map<std::int32_t, std::string> text_of;
  for (const auto& [token, id] : model.vocabulary) {
    if (const auto added = added_id_of.find(token); added != added_id_of.end() && added->second != id) {
      throw refused(
          text("the token \"", token, "\" has the id ", id, " in the model and ", added->second, " as an added token"));
    }
    if (!text_of.emplace(id, bytes_of(token).value_or(token)).second) {
      throw refused(text("the token \"", token, "\" has the id ", id, ", which another has too"));
    }
  }

  std::vector<AddedToken> plain, normalized;
  std::size_t added_bytes = 0;
  for (const AddedTokenEntry& entry : added_tokens) {
    if (entry.content.empty()) continue;  // as `tokenizers` does
    added_bytes += entry.content.size();
    if (added_bytes > kMaxAddedTokensBytes) {
      throw refused(text("added tokens of more than ", kMaxAddedTokensBytes, " bytes in all"));
    }
    if (entry.content.size() > kMaxAddedTokenBytes) {
      throw refused(text("an added token of ", entry.content.size(), " bytes; at most ", kMaxAddedTokenBytes));
    }
    const auto [known, is_new] = text_of.try_emplace(entry.id, entry.content);
    if (!is_new && known->second != bytes_of(entry.content).value_or(entry.content)) {
      throw refused(text("the added token \"", entry.content, "\" has the id ", entry.id, ", which \"", known->second,
                         "\" has too"));
    }
    known->second = entry.content;
    const std::u32string content = decode_utf8(entry.content);
    AddedToken token{.content = entry.normalized && nfc_first ? nfc(content) : content,
                     .id = entry.id,
                     .single_word = entry.single_word,
                     .lstrip = entry.lstrip,
                     .rstrip = entry.rstrip};
    (entry.normalized ? normalized : plain).push_back(std::move(token));
  }

  std::int64_t vocab_size = 0;
  for (const auto& [id, token] : text_of) vocab_size = std::max(vocab_size, std::int64_t{id} + 1);
  return {.added_tokens = AddedTokens(std::move(plain)),
          .nfc = nfc_first,
          .normalized_added_tokens = AddedTokens(std::move(normalized)),
          .pre_tokenizer = PreTokenizer(std::move(splitters)),
          .bpe = Bpe(model, where),
          .before = {},
          .after = {},
          .text_of = std::move(text_of),
          .vocab_size = vocab_size};
}

}  // namespace layerprobe::tokenizer
