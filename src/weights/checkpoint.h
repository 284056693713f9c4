#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/dtype.h"
#include "base/json.h"
#include "weights/tensor_info.h"

namespace layerprobe::weights {

/// A checkpoint's config and tensors. Opening reads headers only. read(): any thread.
class Checkpoint {
 public:
  /// `model` is a folder with config.json and *.safetensors (one file, or sharded by model.safetensors.index.json), a
  /// .gguf file (or the first of a split one), or an org/name id found in the local Hugging Face cache (HF_HUB_CACHE,
  /// HF_HOME/hub, ~/.cache/huggingface/hub; the revision of refs/main). Throws Error(input) for anything that is
  /// missing, damaged, or lies about its own size.
  static Checkpoint open(const std::string& model);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  /// The folder or file that was opened, and what to call it in a file name: "SmolLM2-135M-Instruct.Q4_1".
  const std::filesystem::path& path() const;
  std::string display_name() const;
  bool is_gguf() const;
  const std::vector<std::filesystem::path>& files() const;

  /// config.json, or what one would say of this GGUF in the same words (model_type, hidden_size, rope_parameters, ...).
  const Json& config() const;
  /// The bytes the config was read from, for the model's hash.
  std::string_view config_bytes() const;

  /// Sorted by name. A GGUF's names are mapped to transformers'; a base-model export's get their leading "model."
  /// back.
  const std::vector<TensorInfo>& tensors() const;
  /// nullptr when there is none.
  const TensorInfo* find(std::string_view name) const;

  /// All values of a tensor, converted to `dtype` (through f32; f64 from F64 directly; to nearest, ties to even), row-
  /// major, to `out`: num_elements() * size_of(dtype) bytes. Memory beyond `out` is a few MB, whatever the size.
  /// Throws Error(input) for a storage that cannot be converted by itself (FP8, boolean).
  void read(const TensorInfo& tensor, Dtype dtype, void* out) const;

  /// SHA-256 over the config's bytes and the sorted names, storages and shapes, in lower-case hex.
  std::string hash() const;

  /// A GGUF's tokenizer.ggml.* as the file has it; nothing for a folder.
  struct GgufTokenizer {
    std::string model;  // "gpt2", "llama", ...
    std::string pre;    // which pre-tokenizer: "smollm", "llama-bpe", "qwen2", ...; "" when absent
    std::vector<std::string> tokens;
    std::vector<std::int32_t> token_types;  // 1 normal, 2 unknown, 3 control, 4 user defined, 5 unused, 6 byte
    std::vector<std::string> merges;
    std::int64_t bos_token_id = -1;
    std::int64_t eos_token_id = -1;
    std::optional<bool> add_bos_token;
  };
  std::optional<GgufTokenizer> gguf_tokenizer() const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace layerprobe::weights
