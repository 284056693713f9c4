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
#include "base/file.h"
#include "base/json.h"
#include "weights/gguf_tokenizer.h"
#include "weights/tensor_info.h"

namespace layerprobe::weights {

/// A checkpoint's config and tensors. Opening reads headers only, by pread, never mmap. All const calls: any thread.
class Checkpoint {
 public:
  /// `model` is a folder with config.json and *.safetensors (one file, or sharded by model.safetensors.index.json), a
  /// .gguf file (or the first of a split one), or an org/name id found in the local Hugging Face cache (hub_cache.h). A
  /// path that exists goes before an id. Throws Error(input) for anything that is missing, damaged, lies about its own
  /// size (safetensors.h, gguf_header.h) or is a GGUF of another architecture than llama, qwen2 and qwen3.
  static Checkpoint open(const std::string& model);
  ~Checkpoint();
  Checkpoint(Checkpoint&&) noexcept;

  /// The folder or file that was opened (an id's snapshot), and what to call it in a file name:
  /// "SmolLM2-135M-Instruct.Q4_1".
  const std::filesystem::path& path() const;
  std::string display_name() const;
  bool is_gguf() const;
  const std::vector<std::filesystem::path>& files() const;

  /// config.json, an object; of a GGUF what one would say in the same words (gguf_model.h).
  const Json& config() const;
  /// config.json's bytes; of a GGUF config() as JSON text.
  std::string_view config_bytes() const;

  /// Sorted by name, no name twice. A GGUF's names are mapped to transformers' (others stay: rope_freqs.weight); a
  /// base-model export's get their leading "model." back, and where config.json has a vision_config
  /// "model.language_model." is "model." too.
  const std::vector<TensorInfo>& tensors() const;
  /// nullptr when there is none.
  const TensorInfo* find(std::string_view name) const;

  /// All values of a tensor of tensors(), converted to `dtype` (a floating one; through f32, f64 from F64 directly; to
  /// nearest, ties to even), row-major, to `out`: num_elements() * size_of(dtype) bytes. On all cores (OpenMP) where it
  /// is large; at most 1 MiB a core beyond `out`, whatever the size. Throws Error(input) for a storage that cannot be
  /// converted by itself (FP8, boolean) and when the file ends too early.
  void read(const TensorInfo& tensor, Dtype dtype, void* out) const;

  /// The same of an F8_E4M3 matrix whose blocks have their factors in `scales`: read_scaled.h.
  void read_scaled(const TensorInfo& tensor, const TensorInfo& scales, std::int64_t block_rows,
                   std::int64_t block_columns, Dtype dtype, void* out) const;

  /// The file that holds the tensor's bytes, whatever they mean.
  const File& bytes_of(const TensorInfo& tensor) const;
  /// The file that holds the tensor's bytes, for a reader that converts by itself. Throws Error(input) as read() does
  /// for a storage that cannot be converted.
  const File& file_of(const TensorInfo& tensor) const;

  /// SHA-256, in lower-case hex, of config_bytes() and of a line "\nNAME STORAGE [SHAPE]" for each tensor.
  std::string hash() const;
  /// SHA-256, in lower-case hex, of a few bytes from the middle of each tensor; where there are more than 512, of that
  /// many, evenly taken. Tells a fine-tune from its base, whose hash() is the same, without reading all of either.
  std::string sample_hash() const;

  /// Read from the file at each call; nothing for a folder.
  using GgufTokenizer = weights::GgufTokenizer;
  std::optional<GgufTokenizer> gguf_tokenizer() const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace layerprobe::weights
