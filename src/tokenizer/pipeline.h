#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <unordered_map>
#include <vector>

#include "tokenizer/added_tokens.h"
#include "tokenizer/bpe.h"
#include "tokenizer/pre_tokenizer.h"
#include "tokenizer/tokenizer.h"

namespace layerprobe::tokenizer {

/// What text goes through, in this order. Never changed once made.
struct Pipeline {
  AddedTokens added_tokens;             // in the text as it is
  bool nfc;                             // then each segment between them is normalised
  AddedTokens normalized_added_tokens;  // in normalised text
  PreTokenizer pre_tokenizer;
  Bpe bpe;
  std::vector<std::int32_t> before, after;                // ids around the text's own: BOS and the like
  std::unordered_map<std::int32_t, std::string> text_of;  // bytes of each token
  std::int64_t vocab_size;
};

/// One entry of tokenizer.json's added_tokens, or a control or user defined token of a GGUF.
struct AddedTokenEntry {
  std::string content;
  std::int32_t id;
  bool single_word = false, lstrip = false, rstrip = false, normalized = false;
};

/// Puts the parts together. Throws Error(input), with `where`, when two tokens have one id, or an added token another
/// id than the model gives to its content.
Pipeline make_pipeline(const std::vector<AddedTokenEntry>& added_tokens, bool nfc, std::vector<Splitter> splitters,
                       const Bpe::Model& model, const std::string& where);

/// Throws Error(input) naming the part that is damaged or unknown.
Pipeline read_tokenizer_json(const std::filesystem::path& folder);
Pipeline pipeline_of(const GgufVocabulary& vocabulary, const std::string& where);

}  // namespace layerprobe::tokenizer
