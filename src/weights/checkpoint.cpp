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
  std::error_code ignored;
  if (fs::exists(model, ignored)) return model;
  if (is_hub_id(model)) return find_in_hub_cache(model);
  throw Error({.kind = ErrorKind::input,
               .where = model.empty() ? "the model's path is empty" : model,
               .what = "no such file or folder",
               .fix = "name a folder with config.json and *.safetensors, a .gguf file, or an org/name id of the local "
                      "Hugging Face cache"});
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
    const fs::path config_path = state->path / "config.json";
    SafetensorsFolder folder = open_safetensors_folder(state->path);
    state->config_bytes = read_text_file(config_path);
    state->config = Json::parse(state->config_bytes, config_path.string());
    state->files = std::move(folder.files);
    state->tensors = std::move(folder.tensors);
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
  read_values(state_->files.at(static_cast<std::size_t>(tensor.file)), tensor, dtype, static_cast<std::byte*>(out));
}

std::string Checkpoint::hash() const {
  Sha256 sha;
  sha.add(state_->config_bytes);
  for (const TensorInfo& tensor : state_->tensors) {
    sha.add(text('\n', tensor.name, ' ', name_of(tensor.storage), ' ', shape_text(tensor.shape)));
  }
  return sha.hex();
}

std::optional<Checkpoint::GgufTokenizer> Checkpoint::gguf_tokenizer() const {
  if (!is_gguf()) return std::nullopt;
  const GgufHeader& header = *state_->gguf_header;
  const File& file = state_->files.front();
  const auto refuse = [&](const std::string& key, std::string what) {
    return Error({.kind = ErrorKind::input,
                  .where = file.path().string(),
                  .what = text("key ", key, ": ", what),
                  .fix = "the file is damaged; fetch it again"});
  };
  const auto value_of = [&](const std::string& key) {
    const auto found = header.values.find(key);
    return found == header.values.end() ? nullptr : &found->second;
  };
  const auto string_of = [&](const std::string& key) {
    const Json* value = value_of(key);
    if (value != nullptr && !value->is_string()) throw refuse(key, text("is a ", value->kind(), "; a string is due"));
    return value == nullptr ? std::string() : value->string();
  };
  const auto array_of = [&](const std::string& key) {
    const auto found = header.arrays.find(key);
    return found == header.arrays.end() ? GgufArray{GgufType::string, 0, 0} : found->second;
  };

  GgufTokenizer out;
  out.model = string_of("tokenizer.ggml.model");
  out.pre = string_of("tokenizer.ggml.pre");
  out.tokens = read_strings(file, array_of("tokenizer.ggml.tokens"), "tokenizer.ggml.tokens");
  out.merges = read_strings(file, array_of("tokenizer.ggml.merges"), "tokenizer.ggml.merges");
  const std::string types_key = "tokenizer.ggml.token_type";
  if (header.arrays.contains(types_key)) {
    out.token_types = read_int32s(file, array_of(types_key), types_key);
    if (out.token_types.size() != out.tokens.size()) {
      throw refuse(types_key, text("has ", out.token_types.size(), " items for ", out.tokens.size(), " tokens"));
    }
  }
  const auto token_id_of = [&](const std::string& key) -> std::int64_t {
    const Json* value = value_of(key);
    if (value == nullptr) return -1;
    const auto num_tokens = static_cast<std::int64_t>(out.tokens.size());
    if (value->is_integer() && value->integer() >= 0 && value->integer() < num_tokens) return value->integer();
    throw refuse(key, text("is ", value->dump().substr(0, 40), "; there are ", num_tokens, " tokens"));
  };
  out.bos_token_id = token_id_of("tokenizer.ggml.bos_token_id");
  out.eos_token_id = token_id_of("tokenizer.ggml.eos_token_id");
  if (const Json* value = value_of("tokenizer.ggml.add_bos_token"); value != nullptr && value->is_boolean()) {
    out.add_bos_token = value->boolean();
  }
  return out;
}

}  // namespace layerprobe::weights
