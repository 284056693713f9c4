#include "weights/gguf_tokenizer.h"

#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "weights/gguf_header.h"

namespace layerprobe::weights {
namespace {

/// The keys "tokenizer.ggml.<key>".
class TokenizerKeys {
 public:
  TokenizerKeys(const File& file, const GgufHeader& header) : file_(file), header_(header) {}

  Error refuse(const char* key, std::string what) const {
    return Error({.kind = ErrorKind::input,
                  .where = file_.path().string(),
                  .what = text("key ", whole(key), ": ", what),
                  .fix = "the file is damaged; fetch it again"});
  }

  std::string string(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return {};
    if (!value->is_string()) throw refuse(key, text("is of kind ", value->kind(), "; a string is due"));
    return value->string();
  }

  std::optional<bool> boolean(const char* key) const {
    const Json* value = find(key);
    if (value == nullptr) return std::nullopt;
    if (!value->is_boolean()) throw refuse(key, text("is of kind ", value->kind(), "; a boolean is due"));
    return value->boolean();
  }

  /// -1 when absent.
  std::int64_t token_id(const char* key, std::size_t num_tokens) const {
    const Json* value = find(key);
    if (value == nullptr) return -1;
    const bool is_id = value->is_integer() && value->integer() >= 0;
    if (is_id && static_cast<std::uint64_t>(value->integer()) < num_tokens) return value->integer();
    throw refuse(key, text("is ", value->dump().substr(0, 40), "; there are ", num_tokens, " tokens"));
  }

  std::vector<std::string> strings(const char* key) const {
    const auto found = header_.arrays.find(whole(key));
    if (found == header_.arrays.end()) return {};
    return read_strings(file_, found->second, whole(key));
  }

  std::vector<std::int32_t> int32s(const char* key) const {
    const auto found = header_.arrays.find(whole(key));
    if (found == header_.arrays.end()) return {};
    return read_int32s(file_, found->second, whole(key));
  }

 private:
  static std::string whole(const char* key) { return std::string("tokenizer.ggml.") + key; }

  const Json* find(const char* key) const {
    const auto found = header_.values.find(whole(key));
    return found == header_.values.end() ? nullptr : &found->second;
  }

  const File& file_;
  const GgufHeader& header_;
};

}  // namespace

GgufTokenizer read_gguf_tokenizer(const File& file, const GgufHeader& header) {
  const TokenizerKeys keys(file, header);
  GgufTokenizer out;
  out.model = keys.string("model");
  out.pre = keys.string("pre");
  out.tokens = keys.strings("tokens");
  out.token_types = keys.int32s("token_type");
  out.merges = keys.strings("merges");
  if (!out.token_types.empty() && out.token_types.size() != out.tokens.size()) {
    throw keys.refuse("token_type", text("has ", out.token_types.size(), " items for ", out.tokens.size(), " tokens"));
  }
  out.bos_token_id = keys.token_id("bos_token_id", out.tokens.size());
  out.eos_token_id = keys.token_id("eos_token_id", out.tokens.size());
  out.add_bos_token = keys.boolean("add_bos_token");
  return out;
}

}  // namespace layerprobe::weights
