#include <algorithm>
#include <iostream>
#include <map>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "base/file.h"
#include "base/json.h"
#include "base/probe_point.h"
#include "base/text.h"
#include "cli/inspect.h"
#include "cli/table.h"
#include "model/config.h"
#include "model/tensors.h"
#include "weights/checkpoint.h"

namespace layerprobe::cli {
namespace {

using weights::Checkpoint;
using weights::TensorInfo;

/// What a person asks of a config first, in this order. Everything is in --json.
constexpr const char* kShownKeys[] = {"model_type",
                                      "architectures",
                                      "num_hidden_layers",
                                      "hidden_size",
                                      "intermediate_size",
                                      "num_attention_heads",
                                      "num_key_value_heads",
                                      "head_dim",
                                      "num_local_experts",
                                      "num_experts",
                                      "n_routed_experts",
                                      "num_experts_per_tok",
                                      "vocab_size",
                                      "max_position_embeddings",
                                      "sliding_window",
                                      "rope_theta",
                                      "rope_scaling",
                                      "rope_parameters",
                                      "rms_norm_eps",
                                      "tie_word_embeddings",
                                      "dtype",
                                      "torch_dtype",
                                      "quantization_config"};

struct Sum {
  std::int64_t tensors = 0;
  std::int64_t parameters = 0;
  std::uint64_t bytes = 0;

  void add(const TensorInfo& tensor) {
    ++tensors;
    parameters += tensor.num_elements();
    bytes += tensor.bytes;
  }
};

/// The tensors of one layer, or of one module outside the layers.
struct Group {
  std::string name;
  int layer = -1;
  Sum sum;
  std::map<std::string, Sum> by_storage;
  std::vector<std::string>
      parts;  // what is left of each name, its storage and its shape: equal for layers of one build
};

/// "model.layers.17" of "model.layers.17.mlp.up_proj.weight"; "model.norm" of "model.norm.weight".
std::string group_name(const std::string& tensor, int layer) {
  if (layer < 0) return tensor.substr(0, tensor.rfind('.'));
  const std::string number = text(".layers.", layer);
  return tensor.substr(0, tensor.find(number) + number.size());
}

/// In the order of the forward pass: embedding, layers, norm, head, whatever else there is; inside each by name.
std::vector<const TensorInfo*> in_forward_order(const std::vector<TensorInfo>& tensors) {
  const auto key = [](const TensorInfo& tensor) {
    const int layer = layer_of(tensor.name);
    const std::string group = group_name(tensor.name, layer);
    const int rank = layer >= 0                        ? 1
                     : group.ends_with("embed_tokens") ? 0
                     : group.ends_with("model.norm")   ? 2
                     : group == "lm_head"              ? 3
                                                       : 4;
    return std::tuple(rank, layer < 0 ? group : group.substr(0, group.rfind('.')), layer, tensor.name);
  };
  std::vector<std::pair<decltype(key(tensors.front())), const TensorInfo*>> keyed;
  for (const TensorInfo& tensor : tensors) keyed.emplace_back(key(tensor), &tensor);
  std::sort(keyed.begin(), keyed.end());
  std::vector<const TensorInfo*> out;
  for (const auto& [position, tensor] : keyed) out.push_back(tensor);
  return out;
}

std::vector<Group> groups_of(const std::vector<TensorInfo>& tensors) {
  std::vector<Group> groups;
  for (const TensorInfo* tensor : in_forward_order(tensors)) {
    const int layer = layer_of(tensor->name);
    const std::string name = group_name(tensor->name, layer);
    if (groups.empty() || groups.back().name != name) {
      groups.push_back({.name = name, .layer = layer, .sum = {}, .by_storage = {}, .parts = {}});
    }
    Group& group = groups.back();
    group.sum.add(*tensor);
    group.by_storage[std::string(name_of(tensor->storage))].add(*tensor);
    group.parts.push_back(
        text(tensor->name.substr(name.size()), " ", name_of(tensor->storage), " ", shape_text(tensor->shape)));
  }
  return groups;
}

/// A parameter count with commas: "134,515,008".
std::string grouped_digits(std::int64_t value) {
  const std::string digits = std::to_string(value);
  std::string out;
  for (std::size_t i = 0; i < digits.size(); ++i) {
    if (i != 0 && (digits.size() - i) % 3 == 0) out += ',';
    out += digits[i];
  }
  return out;
}

std::string storages_text(const Group& group) {
  std::string out;
  for (const auto& [name, sum] : group.by_storage) out += text(out.empty() ? "" : " ", name, " x ", sum.tensors);
  return out;
}

/// config.json, or the decoder's part of it where the model has other towers.
const Json& decoder_config(const Checkpoint& checkpoint) {
  const Json* nested = checkpoint.config().find("text_config");
  return nested != nullptr && nested->is_object() ? *nested : checkpoint.config();
}

/// Can `layerprobe run` take this model, and what of it would it leave aside?
struct Support {
  bool is_supported = false;
  std::string why_not;
  std::vector<std::string> unused_keys;  // of config.json
  std::vector<std::string> unused_tensors;
};

Support support_of(const Checkpoint& checkpoint) {
  Support support;
  try {
    const model::ModelConfig config = model::read_config(checkpoint.config(), "config");
    support.unused_keys = config.unused_keys;
    support.unused_tensors = model::check_tensors(config, checkpoint);
    support.is_supported = true;
  } catch (const Error& error) {
    if (error.kind() == ErrorKind::bug) throw;
    support.why_not = text(error.parts().where, ": ", error.parts().what);
  }
  return support;
}

Json tokenizer_of(const Checkpoint& checkpoint) {
  Json out;
  if (const auto vocabulary = checkpoint.gguf_tokenizer()) {
    out.set("kind", "GGUF");
    out.set("model", vocabulary->model);
    out.set("pre", vocabulary->pre);
    out.set("num_tokens", static_cast<std::int64_t>(vocabulary->tokens.size()));
    return out;
  }
  const std::filesystem::path folder = checkpoint.is_gguf() ? std::filesystem::path() : checkpoint.path();
  for (const char* name : {"tokenizer.json", "tokenizer.model"}) {
    if (folder.empty() || !std::filesystem::exists(folder / name)) continue;
    out.set("kind", name);
    return out;
  }
  return out;
}

std::string tokenizer_text(const Checkpoint& checkpoint) {
  const Json tokenizer = tokenizer_of(checkpoint);
  if (tokenizer.is_null()) return "none: prompts have to be token ids";
  const std::string& kind = tokenizer.find("kind")->string();
  if (kind == "tokenizer.model") return "tokenizer.model (SentencePiece, not read): prompts have to be token ids";
  if (kind != "GGUF") return kind;
  return text("in the GGUF: ", tokenizer.find("model")->string(), ", pre-tokenizer \"", tokenizer.find("pre")->string(),
              "\", ", grouped_digits(tokenizer.find("num_tokens")->integer()), " tokens");
}

void print_groups(const std::vector<Group>& groups) {
  Table table({{.name = "tensors of", .align = Table::Align::left},
               {.name = "times"},
               {.name = "tensors"},
               {.name = "parameters"},
               {.name = "bytes"},
               {.name = "storage", .align = Table::Align::left}});
  for (std::size_t i = 0; i < groups.size();) {
    const Group& first = groups[i];
    std::size_t end = i + 1;
    while (end < groups.size() && first.layer >= 0 && groups[end].layer == groups[end - 1].layer + 1 &&
           groups[end].parts == first.parts) {
      ++end;
    }
    const std::string name = end - i == 1 ? first.name : text(first.name, " to ", groups[end - 1].layer, ", each");
    table.add_row({name, text(end - i), text(first.sum.tensors), grouped_digits(first.sum.parameters),
                   bytes_text(first.sum.bytes), storages_text(first)});
    i = end;
  }
  std::cout << table;
}

void print_tensors(const Checkpoint& checkpoint) {
  Table table({{.name = "tensor", .align = Table::Align::left},
               {.name = "storage", .align = Table::Align::left},
               {.name = "shape", .align = Table::Align::left},
               {.name = "bytes"},
               {.name = "file", .align = Table::Align::left}});
  for (const TensorInfo* tensor : in_forward_order(checkpoint.tensors())) {
    table.add_row({tensor->name, std::string(name_of(tensor->storage)), shape_text(tensor->shape),
                   bytes_text(tensor->bytes),
                   checkpoint.files()[static_cast<std::size_t>(tensor->file)].filename().string()});
  }
  std::cout << table;
}

std::map<std::string, Sum> by_storage(const std::vector<TensorInfo>& tensors) {
  std::map<std::string, Sum> sums;
  for (const TensorInfo& tensor : tensors) sums[std::string(name_of(tensor.storage))].add(tensor);
  return sums;
}

Sum sum_of(const std::vector<TensorInfo>& tensors) {
  Sum sum;
  for (const TensorInfo& tensor : tensors) sum.add(tensor);
  return sum;
}

void print(const Checkpoint& checkpoint, bool all_tensors) {
  const Sum all = sum_of(checkpoint.tensors());
  const Support support = support_of(checkpoint);
  std::cout << printable(checkpoint.path().string()) << ": " << (checkpoint.is_gguf() ? "GGUF" : "safetensors") << ", "
            << checkpoint.files().size() << (checkpoint.files().size() == 1 ? " file, " : " files, ")
            << grouped_digits(all.parameters) << " parameters in " << bytes_text(all.bytes) << "\n"
            << "tokenizer: " << printable(tokenizer_text(checkpoint)) << "\n"
            << "can be run: " << (support.is_supported ? "yes" : printable("no: " + support.why_not)) << "\n"
            << "hash: " << checkpoint.hash() << "\n\n";
  Table config({{.name = "config", .align = Table::Align::left}, {.name = "value", .align = Table::Align::left}});
  for (const char* key : kShownKeys) {
    // What stands at the top goes before what its decoder says of itself: how read_config takes it.
    const Json* value = checkpoint.config().find(key);
    if (value == nullptr) value = decoder_config(checkpoint).find(key);
    if (value == nullptr || value->is_null()) continue;
    config.add_row({key, value->is_string() ? value->string() : value->dump()});
  }
  std::cout << config << "\n";
  for (const auto& [what, names] :
       {std::pair("keys of the config", &support.unused_keys), std::pair("tensors", &support.unused_tensors)}) {
    constexpr std::size_t kNames = 30;  // --json has all
    if (!names->empty()) std::cout << what << " not used: " << printable(listed(*names, kNames)) << "\n\n";
  }
  Table storages({{.name = "storage", .align = Table::Align::left},
                  {.name = "tensors"},
                  {.name = "parameters"},
                  {.name = "bytes"},
                  {.name = "bits each"}});
  for (const auto& [name, sum] : by_storage(checkpoint.tensors())) {
    const double bits =
        8.0 * static_cast<double>(sum.bytes) / static_cast<double>(std::max<std::int64_t>(1, sum.parameters));
    storages.add_row(
        {name, text(sum.tensors), grouped_digits(sum.parameters), bytes_text(sum.bytes), number_text(bits)});
  }
  std::cout << storages << "\n";
  if (all_tensors) {
    print_tensors(checkpoint);
  } else {
    print_groups(groups_of(checkpoint.tensors()));
  }
}

void set(Json& out, const Sum& sum) {
  out.set("num_tensors", sum.tensors);
  out.set("num_parameters", sum.parameters);
  out.set("bytes", sum.bytes);
}

Json json_of(const std::vector<std::string>& items) {
  Json out = Json::Array{};
  for (const std::string& item : items) out.push(item);
  return out;
}

Json json_of(const Checkpoint& checkpoint, bool all_tensors) {
  Json out;
  out.set("path", checkpoint.path().string());
  out.set("format", checkpoint.is_gguf() ? "gguf" : "safetensors");
  Json files = Json::Array{};
  for (const std::filesystem::path& file : checkpoint.files()) files.push(file.string());
  out.set("files", std::move(files));
  out.set("hash", checkpoint.hash());
  set(out, sum_of(checkpoint.tensors()));
  const Support support = support_of(checkpoint);
  out.set("is_supported", support.is_supported);
  out.set("why_not", support.why_not);
  out.set("unused_keys", json_of(support.unused_keys));
  out.set("unused_tensors", json_of(support.unused_tensors));
  out.set("config", checkpoint.config());
  out.set("tokenizer", tokenizer_of(checkpoint));
  Json storages = Json::Array{};
  for (const auto& [name, sum] : by_storage(checkpoint.tensors())) {
    Json storage;
    storage.set("storage", name);
    set(storage, sum);
    storages.push(std::move(storage));
  }
  out.set("by_storage", std::move(storages));
  Json groups = Json::Array{};
  for (const Group& group : groups_of(checkpoint.tensors())) {
    Json item;
    item.set("name", group.name);
    set(item, group.sum);
    groups.push(std::move(item));
  }
  out.set("groups", std::move(groups));
  if (!all_tensors) return out;
  Json tensors = Json::Array{};
  for (const TensorInfo* each : in_forward_order(checkpoint.tensors())) {
    const TensorInfo& tensor = *each;
    Json item;
    item.set("name", tensor.name);
    item.set("storage", name_of(tensor.storage));
    Json shape = Json::Array{};
    for (const std::int64_t size : tensor.shape) shape.push(size);
    item.set("shape", std::move(shape));
    item.set("bytes", tensor.bytes);
    item.set("file", static_cast<std::int64_t>(tensor.file));
    tensors.push(std::move(item));
  }
  out.set("tensors", std::move(tensors));
  return out;
}

}  // namespace

void inspect_model(const std::string& model, bool all_tensors, bool json) {
  const Checkpoint checkpoint = Checkpoint::open(model);
  if (json) {
    std::cout << json_of(checkpoint, all_tensors).dump(2) << "\n";
  } else {
    print(checkpoint, all_tensors);
  }
}

}  // namespace layerprobe::cli
