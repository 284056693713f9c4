#include "weights/checkpoint.h"

#include <algorithm>
#include <string_view>
#include <system_error>
#include <utility>

#include "base/error.h"
#include "base/file.h"
#include "base/sha256.h"
#include "base/text.h"
#include "weights/gguf_files.h"
#include "weights/gguf_model.h"
#include "weights/hub_cache.h"
#include "weights/read_scaled.h"
#include "weights/read_values.h"
#include "weights/safetensors.h"

namespace layerprobe::weights {

namespace fs = std::filesystem;

struct Checkpoint::State {
  fs::path path;
  std::string display_name;
  std::vector<File> files;
  std::vector<fs::path> file_paths;
  Json config;
  std::string config_bytes;
  std::vector<TensorInfo> tensors;        // sorted by name
  std::optional<GgufHeader> gguf_header;  // of a GGUF's first file
};

namespace {

/// AutoModel.save_pretrained leaves out the leading "model." that a causal LM's names have.
void restore_base_model_prefix(std::vector<TensorInfo>& tensors) {
  const auto is_prefixed = [](const TensorInfo& tensor) { return tensor.name.starts_with("model."); };
  if (std::any_of(tensors.begin(), tensors.end(), is_prefixed)) return;
  for (TensorInfo& tensor : tensors) {
    for (const char* module : {"embed_tokens.", "layers.", "norm."}) {
      if (!tensor.name.starts_with(module)) continue;
      tensor.name.insert(0, "model.");
      break;
    }
  }
}

/// A vision-language model's decoder is model.language_model in transformers 5 and some files, and model in others.
void restore_decoder_prefix(std::vector<TensorInfo>& tensors) {
  for (TensorInfo& tensor : tensors) {
    for (const std::string_view prefix : {"model.language_model.", "language_model."}) {
      if (!tensor.name.starts_with(prefix)) continue;
      tensor.name.replace(0, prefix.size(), "model.");
      break;
    }
  }
}

/// "Qwen3-8B" of ".../Qwen3-8B/" and of ".../models--Qwen--Qwen3-8B/snapshots/<revision>".
std::string folder_name(const fs::path& folder) {
  std::error_code ignored;
  fs::path real = fs::canonical(folder, ignored);
  if (real.empty()) real = folder;
  const std::string repository = real.parent_path().parent_path().filename().string();
  if (real.parent_path().filename() == "snapshots" && repository.starts_with("models--")) {
    return repository.substr(repository.rfind("--") + 2);
  }
  return real.filename().string();
}

fs::path existing_path(const std::string& model) {
  std::error_code problem;
  if (fs::exists(model, problem)) return model;
  if (problem) {
    throw Error({.kind = ErrorKind::input,
                 .where = model,
                 .what = problem.message(),
                 .fix = "check the path, and whether all of its folders may be read"});
  }
  if (is_hub_id(model)) return find_in_hub_cache(model);
  throw Error({.kind = ErrorKind::input,
               .where = model.empty() ? "the model's path is empty" : model,
               .what = "no such file or folder",
               .fix = "name a folder with config.json and *.safetensors, a .gguf file, or an org/name id of the local "
                      "Hugging Face cache"});
}

std::string read_config_file(const fs::path& path) {
  std::error_code ignored;
  if (fs::exists(path, ignored)) return read_text_file(path);
  throw Error({.kind = ErrorKind::input,
               .where = path.string(),
               .what = "no such file; it says what the weights beside it are",
               .fix = "fetch the model's config.json into the folder"});
}

/// Is there a vision tower beside the decoder?
bool is_vision_language(const Json& config) { return config.find("vision_config") != nullptr; }

Json parse_config(const std::string& bytes, const fs::path& path) {
  Json config = Json::parse(bytes, path.string());
  if (config.is_object()) return config;
  throw Error({.kind = ErrorKind::input,
               .where = path.string(),
               .what = text("is of kind ", config.kind(), "; an object is due"),
               .fix = "fetch the model's config.json again"});
}

}  // namespace

Checkpoint::Checkpoint(std::unique_ptr<State> state) : state_(std::move(state)) {
  for (const File& file : state_->files) state_->file_paths.push_back(file.path());
  sort_by_name(state_->tensors, state_->file_paths);
}
Checkpoint::~Checkpoint() = default;
Checkpoint::Checkpoint(Checkpoint&&) noexcept = default;

Checkpoint Checkpoint::open(const std::string& model) {
  auto state = std::make_unique<State>();
  state->path = existing_path(model);
  if (fs::is_directory(state->path)) {
    state->display_name = folder_name(state->path);
    SafetensorsFolder folder = open_safetensors_folder(state->path);
    state->config_bytes = read_config_file(state->path / "config.json");
    state->config = parse_config(state->config_bytes, state->path / "config.json");
    state->files = std::move(folder.files);
    state->tensors = std::move(folder.tensors);
    if (is_vision_language(state->config)) restore_decoder_prefix(state->tensors);
    restore_base_model_prefix(state->tensors);
  } else {
    state->display_name = gguf_model_name(state->path);
    GgufFiles gguf = open_gguf_files(state->path);
    const std::string where = state->path.string();
    state->config = gguf_config(gguf.header, gguf.tensors, where);
    state->config_bytes = state->config.dump(2);
    use_transformers_names(gguf.tensors, gguf.header, state->config, where);
    state->files = std::move(gguf.files);
    state->tensors = std::move(gguf.tensors);
    state->gguf_header = std::move(gguf.header);
  }
  return Checkpoint(std::move(state));
}

const fs::path& Checkpoint::path() const { return state_->path; }
std::string Checkpoint::display_name() const { return state_->display_name; }
bool Checkpoint::is_gguf() const { return state_->gguf_header.has_value(); }
const std::vector<fs::path>& Checkpoint::files() const { return state_->file_paths; }
const Json& Checkpoint::config() const { return state_->config; }
std::string_view Checkpoint::config_bytes() const { return state_->config_bytes; }
const std::vector<TensorInfo>& Checkpoint::tensors() const { return state_->tensors; }

const TensorInfo* Checkpoint::find(std::string_view name) const {
  const auto found =
      std::lower_bound(state_->tensors.begin(), state_->tensors.end(), name,
                       [](const TensorInfo& tensor, std::string_view wanted) { return tensor.name < wanted; });
  return found == state_->tensors.end() || found->name != name ? nullptr : &*found;
}

void Checkpoint::read(const TensorInfo& tensor, Dtype dtype, void* out) const {
  read_values(file_of(tensor), tensor, dtype, static_cast<std::byte*>(out));
}

void Checkpoint::read_scaled(const TensorInfo& tensor, const TensorInfo& scales, std::int64_t block_rows,
                             std::int64_t block_columns, Dtype dtype, void* out) const {
  read_scaled_values({.file = bytes_of(tensor),
                      .tensor = tensor,
                      .scales_file = bytes_of(scales),
                      .scales = scales,
                      .block_rows = block_rows,
                      .block_columns = block_columns},
                     dtype, static_cast<std::byte*>(out));
}

const File& Checkpoint::bytes_of(const TensorInfo& tensor) const {
  return state_->files.at(static_cast<std::size_t>(tensor.file));
}

const File& Checkpoint::file_of(const TensorInfo& tensor) const {
  const File& file = bytes_of(tensor);
  require_convertible(file, tensor);
  return file;
}

std::string Checkpoint::hash() const {
  Sha256 sha;
  sha.add(state_->config_bytes);
  for (const TensorInfo& tensor : state_->tensors) {
    sha.add(text('\n', tensor.name, ' ', name_of(tensor.storage), ' ', shape_text(tensor.shape)));
  }
  return sha.hex();
}

std::string Checkpoint::sample_hash() const {
  constexpr std::size_t kMostTensors = 512;
  constexpr std::uint64_t kMostBytes = 256;  // of a tensor
  Sha256 sha;
  const std::size_t count = std::min(state_->tensors.size(), kMostTensors);
  std::string bytes;
  for (std::size_t i = 0; i < count; ++i) {
    const TensorInfo& tensor = state_->tensors[i * state_->tensors.size() / count];
    bytes.resize(std::min(tensor.bytes, kMostBytes));
    bytes_of(tensor).read_at(tensor.offset + (tensor.bytes - bytes.size()) / 2,
                             std::as_writable_bytes(std::span(bytes)));
    sha.add(bytes);
  }
  return sha.hex();
}

std::optional<GgufTokenizer> Checkpoint::gguf_tokenizer() const {
  if (!is_gguf()) return std::nullopt;
  return read_gguf_tokenizer(state_->files.front(), *state_->gguf_header);
}

}  // namespace layerprobe::weights
