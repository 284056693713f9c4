#include <algorithm>
#include <map>
#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"
#include "base/json.h"
#include "base/text.h"
#include "weights/safetensors.h"

namespace layerprobe::weights {
namespace {

namespace fs = std::filesystem;

constexpr const char* kIndexName = "model.safetensors.index.json";

Error refuse(const fs::path& where, std::string what, std::string fix) {
  return Error({.kind = ErrorKind::input, .where = where.string(), .what = std::move(what), .fix = std::move(fix)});
}

/// The folder whose files a link in `folder` may lead to: itself; the blobs of "models--org--name" when `folder` is
/// "models--org--name/snapshots/<revision>" of a Hugging Face cache.
fs::path blobs_of(const fs::path& folder) {
  const fs::path repository = folder.parent_path().parent_path();
  const bool is_cache =
      folder.parent_path().filename() == "snapshots" && repository.filename().string().starts_with("models--");
  return is_cache ? repository / "blobs" : folder;
}

/// The shard of that name, which an index from a stranger gave.
File open_shard(const fs::path& folder, const std::string& name) {
  const fs::path index = folder / kIndexName;
  if (name.empty() || name == "." || name == ".." || name.find_first_of(std::string_view("/\\\0", 3)) != name.npos) {
    throw refuse(index, text("names the file \"", name, "\"; a shard is a plain file of its folder"),
                 "do not use this index; fetch the model again");
  }
  std::error_code ignored;
  const fs::path real_folder = fs::canonical(folder);
  const fs::path real = fs::canonical(folder / name, ignored);
  if (real.empty()) {
    throw refuse(index, text("names ", name, ", which is missing"),
                 "fetch the model again: hf download continues where it stopped");
  }
  if (real.parent_path() != real_folder && real.parent_path() != blobs_of(real_folder)) {
    throw refuse(index, text("names ", name, ", which is a link to ", real.string(), ", outside the folder"),
                 "copy the shards into one folder");
  }
  return File::open_for_reading(folder / name);
}

SafetensorsFolder open_sharded(const fs::path& folder) {
  const fs::path index_path = folder / kIndexName;
  const Json index = Json::parse(read_text_file(index_path), index_path.string());
  const Json* weight_map = index.find("weight_map");
  if (weight_map == nullptr || !weight_map->is_object()) {
    throw refuse(index_path, "has no weight_map", "fetch the model again");
  }
  SafetensorsFolder out;
  std::map<std::string, int> file_of;  // shard -> index into out.files
  for (const auto& [tensor, shard] : weight_map->members()) {
    if (!shard.is_string()) throw refuse(index_path, text("tensor ", tensor, " has no file"), "fetch the model again");
    if (!file_of.try_emplace(shard.string(), 0).second) continue;
    File file = open_shard(folder, shard.string());
    const int number = static_cast<int>(out.files.size());
    file_of[shard.string()] = number;
    std::vector<TensorInfo> tensors = read_safetensors_header(file, number);
    out.tensors.insert(out.tensors.end(), std::make_move_iterator(tensors.begin()),
                       std::make_move_iterator(tensors.end()));
    out.files.push_back(std::move(file));
  }

  std::vector<std::pair<std::string_view, int>> found;
  found.reserve(out.tensors.size());
  for (const TensorInfo& tensor : out.tensors) found.emplace_back(tensor.name, tensor.file);
  std::sort(found.begin(), found.end());
  for (const auto& [tensor, shard] : weight_map->members()) {
    if (std::binary_search(found.begin(), found.end(), std::pair(std::string_view(tensor), file_of[shard.string()]))) {
      continue;
    }
    throw refuse(index_path, text("says that tensor ", tensor, " is in ", shard.string(), ", but it is not there"),
                 "index and shards are of different models; fetch both from one revision");
  }
  return out;
}

SafetensorsFolder open_single(const fs::path& path) {
  SafetensorsFolder out;
  out.files.push_back(File::open_for_reading(path));
  out.tensors = read_safetensors_header(out.files.back(), 0);
  return out;
}

/// What to say of a folder without model.safetensors, index, or a single *.safetensors.
Error no_weights(const fs::path& folder, const std::vector<std::string>& names) {
  std::vector<std::string> shards;
  std::string gguf, pickle;
  for (const std::string& name : names) {
    if (name.ends_with(".safetensors")) shards.push_back(name);
    if (name.ends_with(".gguf")) gguf = name;
    if (name.starts_with("pytorch_model") && name.find(".bin") != name.npos) pickle = name;
  }
  if (!shards.empty()) {
    return refuse(folder,
                  text("holds ", shards.size(), " .safetensors files (", shards.front(), ", ...) but no ", kIndexName),
                  "fetch the index too");
  }
  if (!gguf.empty())
    return refuse(folder, "holds no .safetensors file", text("name the GGUF: --model ", (folder / gguf).string()));
  if (!pickle.empty()) {
    return refuse(folder, text("holds no .safetensors file; ", pickle, " is a pickle, which can run code when read"),
                  "save it with transformers: AutoModelForCausalLM.from_pretrained(...).save_pretrained(folder)");
  }
  return refuse(folder, "holds no .safetensors file", "name the folder that holds the weights, or a .gguf file");
}

}  // namespace

SafetensorsFolder open_safetensors_folder(const fs::path& folder) {
  std::error_code code;
  std::vector<std::string> names;
  for (const auto& entry : fs::directory_iterator(folder, code)) names.push_back(entry.path().filename().string());
  if (code) throw refuse(folder, text("cannot be listed: ", code.message()), "check the folder's permissions");
  std::sort(names.begin(), names.end());
  const auto is_there = [&](const char* name) { return std::binary_search(names.begin(), names.end(), name); };
  if (is_there("model.safetensors")) return open_single(folder / "model.safetensors");
  if (is_there(kIndexName)) return open_sharded(folder);
  const auto is_weights = [](const std::string& name) { return name.ends_with(".safetensors"); };
  const auto only = std::find_if(names.begin(), names.end(), is_weights);
  const bool is_shard = only != names.end() && only->find("-of-") != std::string::npos;
  if (is_shard || std::count_if(names.begin(), names.end(), is_weights) != 1) throw no_weights(folder, names);
  return open_single(folder / *only);
}

}  // namespace layerprobe::weights
