#include <algorithm>
#include <atomic>
#include <exception>
#include <iterator>
#include <map>
#include <string>
#include <string_view>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

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

/// Of all files, in their order, read by as many threads as there are cores: a hundred thousand tensors take a second
/// of one. Throws what the first file that cannot be read gives.
std::vector<TensorInfo> read_headers(const std::vector<File>& files) {
  std::vector<std::vector<TensorInfo>> headers(files.size());
  std::vector<std::exception_ptr> failures(files.size());
  std::atomic<std::size_t> next = 0;
  const auto work = [&] {
    for (std::size_t i = next++; i < files.size(); i = next++) {
      try {
        headers[i] = read_safetensors_header(files[i], static_cast<int>(i));
      } catch (...) {
        failures[i] = std::current_exception();
      }
    }
  };
  {
    const std::size_t cores = std::max(std::thread::hardware_concurrency(), 1u);
    std::vector<std::jthread> others;
    for (std::size_t i = 1; i < std::min(cores, files.size()); ++i) others.emplace_back(work);
    work();
  }
  std::vector<TensorInfo> out;
  for (std::size_t i = 0; i < files.size(); ++i) {
    if (failures[i]) std::rethrow_exception(failures[i]);
    out.insert(out.end(), std::make_move_iterator(headers[i].begin()), std::make_move_iterator(headers[i].end()));
  }
  return out;
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
    if (!file_of.try_emplace(shard.string(), static_cast<int>(out.files.size())).second) continue;
    out.files.push_back(open_shard(folder, shard.string()));
  }
  out.tensors = read_headers(out.files);

  std::unordered_map<std::string_view, int> found;
  found.reserve(out.tensors.size());
  for (const TensorInfo& tensor : out.tensors) found.emplace(tensor.name, tensor.file);
  for (const auto& [tensor, shard] : weight_map->members()) {
    const auto place = found.find(tensor);
    if (place != found.end() && place->second == file_of[shard.string()]) continue;
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
