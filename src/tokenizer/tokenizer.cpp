#include "tokenizer/tokenizer.h"

#include <utility>

#include "base/error.h"
#include "base/text.h"
#include "tokenizer/pipeline.h"
#include "tokenizer/unicode.h"

namespace layerprobe::tokenizer {
namespace {

constexpr std::size_t kMaxTextBytes = 1'000'000'000;  // positions within a piece are 32 bits

/// One segment between added tokens, already normalised.
void append_ids(const Pipeline& pipeline, std::u32string_view segment, PatternRun& run,
                std::vector<std::int32_t>& ids) {
  const PreTokenizer::Pieces cut = pipeline.pre_tokenizer.pieces_of(segment, run);
  for (const PreTokenizer::Piece& piece : cut.pieces) {
    const std::u32string_view text = cut.text;
    pipeline.bpe.append_ids(encode_utf8(text.substr(piece.begin, piece.end - piece.begin)), ids);
  }
}

}  // namespace

struct Tokenizer::State {
  Pipeline pipeline;
};

Tokenizer::Tokenizer(std::unique_ptr<State> state) : state_(std::move(state)) {}
Tokenizer::~Tokenizer() = default;
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;

Tokenizer Tokenizer::from_folder(const std::filesystem::path& folder) {
  return Tokenizer(std::make_unique<State>(State{read_tokenizer_json(folder)}));
}

Tokenizer Tokenizer::from_gguf(const GgufVocabulary& vocabulary, const std::string& where) {
  return Tokenizer(std::make_unique<State>(State{pipeline_of(vocabulary, where)}));
}

std::vector<std::int32_t> Tokenizer::encode(std::string_view text, bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes) {
    throw Error({.kind = ErrorKind::usage,
                 .where = "text",
                 .what = layerprobe::text("is ", text.size(), " bytes; at most ", kMaxTextBytes, " are taken at once"),
                 .fix = "cut it into several prompts"});
  }
  const Pipeline& pipeline = state_->pipeline;
  std::vector<std::int32_t> ids;
  if (add_special_tokens) ids = pipeline.before;
  const std::u32string code_points = decode_utf8(text);
  PatternRun run(code_points.size());
  for (const AddedTokens::Segment& outer : pipeline.added_tokens.segments_of(code_points)) {
    if (outer.id != AddedTokens::kNone) {
      ids.push_back(outer.id);
      continue;
    }
    const std::u32string normalized = pipeline.nfc ? nfc(outer.text) : std::u32string(outer.text);
    for (const AddedTokens::Segment& inner : pipeline.normalized_added_tokens.segments_of(normalized)) {
      if (inner.id != AddedTokens::kNone) {
        ids.push_back(inner.id);
      } else {
        append_ids(pipeline, inner.text, run, ids);
      }
    }
  }
  if (add_special_tokens) ids.insert(ids.end(), pipeline.after.begin(), pipeline.after.end());
  return ids;
}

std::string Tokenizer::token_text(std::int32_t id) const {
  const auto found = state_->pipeline.text_of.find(id);
  return found == state_->pipeline.text_of.end() ? "" : found->second;
}

std::string Tokenizer::decode(std::span<const std::int32_t> ids) const {
  std::string bytes;
  for (const std::int32_t id : ids) bytes += token_text(id);
  return encode_utf8(decode_utf8(bytes));
}

std::int64_t Tokenizer::vocab_size() const { return state_->pipeline.vocab_size; }

}  // namespace layerprobe::tokenizer
