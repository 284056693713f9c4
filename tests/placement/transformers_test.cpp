#include "placement/transformers.h"

#include <doctest/doctest.h>

#include <map>
#include <string>

#include "base/file.h"
#include "base/json.h"
#include "base/text.h"

namespace layerprobe::placement {
namespace {

/// What a decoder's tree follows from, in bytes an element.
struct Shape {
  std::uint64_t vocab_size, hidden_size, num_layers, heads, key_value_heads, head_dim, intermediate_size;
  bool qkv_bias = false, is_tied = false, qk_norm = false;
  std::uint64_t num_experts = 0;
};

TreeModule decoder(const Shape& s) {
  TreeModule root;
  const auto add = [&](const std::string& name, std::uint64_t elements) { add_tensor(root, {name, 2 * elements}); };
  add("model.embed_tokens.weight", s.vocab_size * s.hidden_size);
  const std::uint64_t query = s.heads * s.head_dim, key_value = s.key_value_heads * s.head_dim;
  for (std::uint64_t layer = 0; layer < s.num_layers; ++layer) {
    const std::string prefix = text("model.layers.", layer, ".");
    for (const auto& [name, size] : {std::pair{"q_proj", query}, {"k_proj", key_value}, {"v_proj", key_value}}) {
      add(text(prefix, "self_attn.", name, ".weight"), size * s.hidden_size);
      if (s.qkv_bias) add(text(prefix, "self_attn.", name, ".bias"), size);
    }
    add(prefix + "self_attn.o_proj.weight", query * s.hidden_size);
    if (s.qk_norm) {
      add(prefix + "self_attn.q_norm.weight", s.head_dim);
      add(prefix + "self_attn.k_norm.weight", s.head_dim);
    }
    if (s.num_experts > 0) {
      add(prefix + "mlp.gate.weight", s.num_experts * s.hidden_size);
      add(prefix + "mlp.experts.gate_up_proj", s.num_experts * 2 * s.intermediate_size * s.hidden_size);
      add(prefix + "mlp.experts.down_proj", s.num_experts * s.intermediate_size * s.hidden_size);
    } else {
      for (const char* name : {"gate_proj", "up_proj", "down_proj"}) {
        add(text(prefix, "mlp.", name, ".weight"), s.intermediate_size * s.hidden_size);
      }
    }
    add(prefix + "input_layernorm.weight", s.hidden_size);
    add(prefix + "post_attention_layernorm.weight", s.hidden_size);
    root.children[0].children[1].children.back().is_no_split = true;
  }
  add("model.norm.weight", s.hidden_size);
  add_tensor(root, {"model.rotary_emb.inv_freq", 2 * s.head_dim}, /*is_buffer=*/true);
  add_tensor(root, {"model.rotary_emb.original_inv_freq", 2 * s.head_dim}, /*is_buffer=*/true);
  add_tensor(root, {"lm_head.weight", 2 * s.vocab_size * s.hidden_size, s.is_tied ? "model.embed_tokens.weight" : ""});
  sum_bytes(root);
  return root;
}

/// `layers`: the bytes of attention and MLP of each.
TreeModule toy(std::uint64_t embedding, const std::vector<std::pair<std::uint64_t, std::uint64_t>>& layers,
               bool is_tied = false) {
  TreeModule root;
  add_tensor(root, {"model.embed_tokens.weight", embedding});
  for (std::size_t i = 0; i < layers.size(); ++i) {
    add_tensor(root, {text("model.layers.", i, ".self_attn.weight"), layers[i].first});
    add_tensor(root, {text("model.layers.", i, ".mlp.weight"), layers[i].second});
    root.children[0].children[1].children.back().is_no_split = true;
  }
  add_tensor(root, {"model.norm.weight", 10});
  add_tensor(root, {"model.rotary_emb.inv_freq", 2}, /*is_buffer=*/true);
  add_tensor(root, {"lm_head.weight", embedding, is_tied ? "model.embed_tokens.weight" : ""});
  sum_bytes(root);
  return root;
}

const std::map<std::string, TreeModule>& models() {
  using Layers = std::vector<std::pair<std::uint64_t, std::uint64_t>>;
  static const std::map<std::string, TreeModule> all = {
      {"toy_a", toy(1000, Layers(8, {200, 300}))},
      {"toy_a_tied", toy(1000, Layers(8, {200, 300}), true)},
      {"toy_b", toy(100, {{50, 50}, {50, 50}, {50, 550}, {50, 550}, {50, 550}, {50, 550}})},
      {"llama3_8b", decoder({128256, 4096, 32, 32, 8, 128, 14336})},
      {"llama3_70b", decoder({128256, 8192, 80, 64, 8, 128, 28672})},
      {"qwen25_05b", decoder({151936, 896, 24, 14, 2, 64, 4864, true, true})},
      {"qwen3_30b_a3b", decoder({151936, 2048, 48, 32, 4, 128, 768, false, false, true, 128})},
      {"tiny_llama", decoder({256, 64, 4, 4, 2, 16, 128})}};
  return all;
}

struct Vector {
  std::vector<std::string> places;  // "0", "1", ..., "cpu", "disk", in the order of WeightBudgets
  WeightBudgets given, balanced;
};

/// Device ids may have gaps; ours are numbered as they come.
Vector vector_of(const Json& json) {
  Vector out;
  const auto read = [](const Json& budgets, WeightBudgets& into) {
    for (const auto& [name, bytes] : budgets.members()) {
      if (name == "cpu") {
        into.host = bytes.integer();
      } else {
        into.devices.push_back(bytes.integer());
      }
    }
  };
  read(*json.find("max_memory"), out.given);
  read(*json.find("budget"), out.balanced);
  for (const auto& [name, bytes] : json.find("max_memory")->members()) {
    if (name != "cpu") out.places.push_back(name);
  }
  out.places.insert(out.places.end(), {"cpu", "disk"});
  return out;
}

/// The device that a vector's map gives a module; "model.layers.3..7" stands for five names.
std::string expected_place(const Json& map, const std::string& module) {
  std::string best_prefix, place = "nowhere";
  for (const auto& [key, device] : map.members()) {
    std::vector<std::string> names = {key};
    if (const std::size_t dots = key.find(".."); dots != std::string::npos) {
      names.clear();
      const std::size_t start = key.rfind('.', dots - 1) + 1;
      for (int i = std::stoi(key.substr(start)); i <= std::stoi(key.substr(dots + 2)); ++i) {
        names.push_back(text(key.substr(0, start), i));
      }
    }
    for (const std::string& name : names) {
      if (!is_within(module, name) || (place != "nowhere" && name.size() < best_prefix.size())) continue;
      best_prefix = name;
      place = device.is_string() ? device.string() : text(device.integer());
    }
  }
  return place;
}

void collect_places(const TreeModule& module, const Filled& filled, std::map<std::string, std::size_t>& out) {
  for (const auto& [name, place] : filled) {
    if (is_within(module.name, name) && !module.name.empty()) out[module.name] = place;
  }
  if (module.is_no_split) return;
  for (const TreeModule& child : module.children) collect_places(child, filled, out);
}

void check_vectors(const char* file, Slack slack) {
  const std::string path = text(LAYERPROBE_SOURCE_DIR "/tests/placement/", file);
  const Json vectors = Json::parse(read_text_file(path), path);
  CHECK(vectors.items().size() == 40);
  for (const Json& json : vectors.items()) {
    CAPTURE(json.find("id")->string());
    const std::string& strategy = json.find("strategy")->string();
    const TreeModule& root = models().at(json.find("model")->string());
    const Vector vector = vector_of(json);
    WeightBudgets budgets = vector.given;
    if (strategy != "sequential") budgets = balanced_budgets(root, budgets, strategy == "balanced_low_0", slack);
    CHECK(budgets == vector.balanced);

    std::map<std::string, std::size_t> places;
    collect_places(root, fill(root, budgets), places);
    for (const auto& [module, place] : places) {
      const std::string expected = expected_place(*json.find("map"), module);
      if (expected == "nowhere") continue;  // model and model.layers where their parts have names of their own
      CHECK_MESSAGE(vector.places[place] == expected, module);
    }
    for (const char* module : {"model.embed_tokens", "model.layers.0", "model.norm", "lm_head"}) {
      CHECK(places.contains(module));
    }
  }
}

}  // namespace

TEST_CASE("the models of the vectors have the sizes that transformers gives them") {
  CHECK(models().at("toy_a").bytes == 6012);
  CHECK(models().at("toy_a_tied").bytes == 5012);
  CHECK(models().at("toy_b").bytes == 2812);
  CHECK(models().at("llama3_8b").bytes == 16060523008);
  CHECK(models().at("llama3_70b").bytes == 141107413504);
  CHECK(models().at("qwen25_05b").bytes == 988065792);
  CHECK(models().at("qwen3_30b_a3b").bytes == 61064245760);
  CHECK(models().at("tiny_llama").bytes == 361664);
}

TEST_CASE("budgets and places are transformers 5.23.0's for the same sizes and budgets") {
  check_vectors("transformers_5.23_vectors.json", Slack::largest_leaf);
}

TEST_CASE("with the mean leaf they are those of earlier releases") {
  check_vectors("transformers_5.15_vectors.json", Slack::mean_leaf);
}

TEST_CASE("low_0 takes the first device for GPU 0 whatever its number is") {
  const WeightBudgets budgets = {.devices = {10000, 10000}, .host = {}};
  CHECK(balanced_budgets(models().at("toy_a"), budgets, true).devices == std::vector<std::int64_t>{0, 10000});
}

TEST_CASE("without any device all goes to the disk") {
  for (const auto& [name, place] : fill(models().at("toy_a"), {})) CHECK(place == 1);
}

TEST_CASE("a prefix ends at a dot") {
  CHECK(is_within("model.layers.1.mlp", "model.layers.1"));
  CHECK_FALSE(is_within("model.layers.10", "model.layers.1"));
  CHECK(is_within("lm_head", ""));
}

}  // namespace layerprobe::placement
