#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "base/file.h"

namespace layerprobe::weights {

struct GgufHeader;

/// A GGUF's tokenizer.ggml.* as the file has it.
struct GgufTokenizer {
  std::string model;  // "gpt2", "llama", ...
  std::string pre;    // which pre-tokenizer: "smollm", "llama-bpe", "qwen2", ...; "" when absent
  std::vector<std::string> tokens;
  std::vector<std::int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte; or none
  std::vector<std::string> merges;
  std::int64_t bos_token_id = -1;
  std::int64_t eos_token_id = -1;
  std::optional<bool> add_bos_token;
};

/// `file` is the one `header` was read from. Throws Error(input), naming the key, for a value of another type, token
/// types that are not one a token, and ids that no token has.
GgufTokenizer read_gguf_tokenizer(const File& file, const GgufHeader& header);

}  // namespace layerprobe::weights
