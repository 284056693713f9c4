#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace layerprobe::tokenizer {

/// The vocabulary inside a GGUF, as its tokenizer.ggml.* keys have it.
struct GgufVocabulary {
  std::string model;  // tokenizer.ggml.model: only "gpt2" (byte-level BPE) is supported
  std::string pre;    // tokenizer.ggml.pre: names the pre-tokenizer
  std::vector<std::string> tokens;
  std::vector<std::int32_t> token_types;  // 3 (control) and 4 (user defined) are added tokens
  std::vector<std::string> merges;
  std::int64_t bos_token_id = -1;
  std::optional<bool> add_bos_token;
};

/// Text to token ids and back, the same ids as version 0.23 of the `tokenizers` package gives. Byte-level BPE only. Any
/// thread.
class Tokenizer {
 public:
  /// tokenizer.json, and tokenizer_config.json beside it where there is one: its add_bos_token and add_eos_token, when
  /// true, add what the post-processor does not add already (transformers 4 did so for its Llama classes, 5.23 takes no
  /// notice of them). Truncation and padding in the file are ignored, as transformers does.
  /// Throws Error(input), naming the part, when it is damaged or uses a normalizer, pre-tokenizer, model or
  /// post-processor that we do not know.
  static Tokenizer from_folder(const std::filesystem::path& folder);
  /// Throws Error(input), with `where`, for a SentencePiece vocabulary, a `pre` that we do not know (it names those
  /// that we do), or a damaged vocabulary. An empty `pre` is "default": GPT-2's.
  static Tokenizer from_gguf(const GgufVocabulary& vocabulary, const std::string& where);
  ~Tokenizer();
  Tokenizer(Tokenizer&&) noexcept;

  /// Ids of the text, with the BOS (and whatever else the post-processor adds) when `add_special_tokens`.
  /// Added tokens are found in the text too. Invalid UTF-8 becomes U+FFFD, as Python's decode(errors="replace") has it.
  /// Throws Error(input) when a pattern of the file takes too long on this text, Error(usage) beyond 1 GB.
  std::vector<std::int32_t> encode(std::string_view text, bool add_special_tokens = true) const;

  /// The text of a token by itself: its bytes, which may be invalid UTF-8; an added token's content. "" for an id that
  /// no token has.
  std::string token_text(std::int32_t id) const;
  /// The text of all of them; invalid UTF-8 becomes U+FFFD. Added tokens are kept.
  std::string decode(std::span<const std::int32_t> ids) const;

  /// One more than the largest id, added tokens included.
  std::int64_t vocab_size() const;

 private:
  struct State;
  explicit Tokenizer(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace layerprobe::tokenizer
